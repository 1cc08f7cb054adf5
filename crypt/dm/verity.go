package dm

import (
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// verityBlock is the size of data and hash blocks in bytes.
const verityBlock = 4096

// VerityTable describes a dm-verity device: a block is read as the root hash says, or is an
// I/O error. Hashes are SHA-256 in format type 1. There is no verity superblock.
// https://docs.kernel.org/admin-guide/device-mapper/verity.html
//
// None of the target's options are set. So a bad block is an I/O error, which neither restarts
// the machine nor panics: containers that do not need that block go on. Each block is checked
// each time it is read from the disk, zeros too.
type VerityTable struct {
	DataDev    uint64 // the block devices beneath, as unix.Mkdev gives them
	HashDev    uint64 // may be the same
	DataBlocks uint64 // from the begin of DataDev, 4096 bytes each; the size of the device made
	HashStart  uint64 // where the tree begins on HashDev, in blocks
	Root       [32]byte
	Salt       [32]byte
}

// target is the line of the table. The kernel shows root hash and salt to root: both are of
// use only to who has the content.
func (t VerityTable) target() Target {
	return Target{
		Length: t.DataBlocks * (verityBlock / 512),
		Type:   "verity",
		Params: fmt.Sprintf("1 %d:%d %d:%d %d %d %d %d sha256 %s %s", unix.Major(t.DataDev), unix.Minor(t.DataDev),
			unix.Major(t.HashDev), unix.Minor(t.HashDev), verityBlock, verityBlock, t.DataBlocks, t.HashStart,
			hex.EncodeToString(t.Root[:]), hex.EncodeToString(t.Salt[:])),
	}
}

// Is says whether a device's active table is this one.
func (t VerityTable) Is(active []Target) bool {
	want := t.target()
	return len(active) == 1 && active[0].Type == want.Type && active[0].Length == want.Length && active[0].Params == want.Params
}

// HasVerity tells whether this kernel has the verity target, and loads its module where it is
// one. It needs Linux 5.4, as TargetVersion does.
func (c *Control) HasVerity() bool {
	_, err := c.TargetVersion("verity")
	return err == nil
}

// LoadVerity loads a verity table into device name, which is read-only. ErrTarget where the
// kernel has no verity or no SHA-256, or a device is too small for data or tree. The tree is not
// read yet: what is wrong with it shows when blocks are read.
func (c *Control) LoadVerity(name string, t VerityTable) error { return c.Load(name, true, t.target()) }

// VerityCorrupted tells from the status of a verity device whether a block was bad since the
// table was loaded. The status begins with V or C; newer kernels count repairs behind that.
func VerityCorrupted(status Target) bool {
	return status.Type == "verity" && strings.HasPrefix(status.Params, "C")
}
