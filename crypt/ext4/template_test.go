package ext4

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A device of dm-crypt reads as garbage where nothing was written. A file system from a
// template is whole on such a device, can be filled, and is no twin of the next one.
func TestTemplate(t *testing.T) {
	var templates Templates
	for _, size := range []int64{MinSize, 200 << 20} {
		seen := map[[16]byte]bool{}
		for range 3 {
			f := sparse(t, size)
			garbage := make([]byte, 1<<20)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(garbage)
			for at := int64(0); at < size; at += int64(len(garbage)) {
				if _, err := f.WriteAt(garbage, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := templates.Mkfs(t.Context(), f.Name(), MkfsOptions{Label: "mine", Dirs: []Dir{{Name: "diff", Mode: 0o755}, {Name: "work", Mode: 0o700, UID: 5}}}); err != nil {
				t.Fatal(err)
			}
			mustCheck(t, f)
			s, err := ReadSuper(f)
			if err != nil || s.Size != size || seen[s.UUID] {
				t.Errorf("%+v, %v", s, err)
			}
			seen[s.UUID] = true
			mnt := mount(t, f, "noinit_itable")
			for i := range 2000 { // more inodes than the table blocks that mke2fs wrote
				if err := os.WriteFile(filepath.Join(mnt, "diff", "f"+string(rune('a'+i))), garbage[:i%5000], 0o600); err != nil {
					if i < 500 {
						t.Fatal(err)
					}
					break // the smallest is full of inodes
				}
			}
			mustUnmount(t, mnt)
			mustCheck(t, f)
		}
		if len(templates.made) == 0 {
			t.Error("no template")
		}
	}
}

// Every backup of the superblock has the new UUID and a right checksum.
func TestTemplateBackups(t *testing.T) {
	f := sparse(t, 64<<30)
	var templates Templates
	if err := templates.Mkfs(t.Context(), f.Name(), MkfsOptions{Dirs: []Dir{{Name: "diff", Mode: 0o755}}}); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, f)
	s, err := ReadSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []int64{1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343} {
		sb := make([]byte, superSize)
		if _, err := f.ReadAt(sb, group*BlockSize*8*BlockSize); err != nil {
			t.Fatal(err)
		}
		sum := ^crc32.Checksum(sb[:sbChecksum], crc32.MakeTable(crc32.Castagnoli))
		if !bytes.Equal(sb[sbUUID:sbUUID+16], s.UUID[:]) || binary.LittleEndian.Uint32(sb[sbChecksum:]) != sum {
			t.Errorf("backup in group %d: UUID %x, want %x, checksum right: %t", group, sb[sbUUID:sbUUID+16], s.UUID, binary.LittleEndian.Uint32(sb[sbChecksum:]) == sum)
		}
	}
	if got := onDisk(t, f); got > 2<<20 {
		t.Errorf("%d bytes on disk", got)
	}
}
