package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// BlockSize of every file system made here, in bytes: a page, and dm-crypt's larger
// sector size, so that no request is split.
const BlockSize = 4096

// journalMiB bounds the journal. mke2fs would take up to 1 GiB by itself, which fills
// up with ciphertext in every layer that is written to; 4 MiB (1024 blocks) is the
// smallest that the kernel accepts, and enough for what one container writes.
const journalMiB = 4

// MinSize is the smallest device Mkfs takes, in bytes: the journal must fit beside
// the tables and leave room.
const MinSize = 16 << 20

// features spells out the file system's features, so that they depend neither on the
// host's mke2fs.conf nor on the release of e2fsprogs. Every one is known to Linux 4.14
// and to e2fsprogs 1.46.
//   - no resize_inode: its reserved blocks cost 4 MiB in a 64 GiB image. The kernel
//     grows a file system without it, by meta_bg.
//   - metadata_csum_seed: the UUID may change without rewriting every checksum.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super," +
	"large_file,huge_file,dir_nlink,extra_isize,metadata_csum,metadata_csum_seed"

// mke2fsConf replaces /etc/mke2fs.conf.
const mke2fsConf = "[fs_types]\n ext4 = {\n }\n"

// Dir is a directory that a new file system has at its root.
type Dir struct {
	Name     string
	Mode     fs.FileMode
	UID, GID int
}

// MkfsOptions of a new file system.
type MkfsOptions struct {
	UUID  string // empty for a random one
	Label string // at most 16 bytes
	Dirs  []Dir
	// Inodes is how many files it has room for, see CheckInodes; 0 for as many as its size
	// asks for.
	Inodes int64
}

// Mkfs makes a journalled ext4 file system over all of a block device or file.
// What it does not write (inode tables, the journal's blocks) may hold anything: the
// file system says that it is not initialised. Mount it with noinit_itable, or the
// kernel starts filling the inode tables, 1/32 of the device, in the background.
func Mkfs(ctx context.Context, device string, o MkfsOptions) (err error) {
	size, err := sizeOf(device)
	if err == nil {
		err = CheckInodes(o.Inodes, size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", device, err)
	}
	dir, err := os.MkdirTemp("", "layervault-mkfs-")
	if err != nil {
		return fmt.Errorf("%s: %w", device, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	conf, root := filepath.Join(dir, "mke2fs.conf"), filepath.Join(dir, "root")
	if err := os.WriteFile(conf, []byte(mke2fsConf), 0o600); err != nil {
		return err
	}
	if err := makeDirs(root, o.Dirs); err != nil {
		return err
	}
	args := []string{
		"-q", "-F", "-t", "ext4", "-O", features,
		"-b", strconv.Itoa(BlockSize), "-I", "256",
		"-m", "0", // no blocks reserved for root: everyone in a layer is root
		"-J", fmt.Sprintf("size=%d", journalMiB),
		"-G", "512", // keep the tables of many groups together: fewer pieces
		// nodiscard: the device is new, there is nothing to give back.
		"-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
		"-d", root,
	}
	args = append(args, inodeArgs(size, o.Inodes)...)
	if o.UUID != "" {
		args = append(args, "-U", o.UUID)
	}
	if o.Label != "" {
		args = append(args, "-L", o.Label)
	}
	err = run(ctx, []string{"MKE2FS_CONFIG=" + conf, "MKE2FS_SKIP_PROGRESS=1"}, "mke2fs", append(args, device)...)
	if _, ok := errors.AsType[*toolError](err); ok {
		return fmt.Errorf("%s: %w: %w", device, ErrMkfs, err)
	}
	return err
}

// sizeOf measures a device, and refuses one on which mke2fs would leave out the journal.
func sizeOf(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size < MinSize {
		err = fmt.Errorf("%w: %d bytes, minimum is %d", ErrTooSmall, size, MinSize)
	}
	return size, err
}

// makeDirs lays out the directories that mke2fs copies into the new file system.
func makeDirs(root string, dirs []Dir) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(root, 0o755); err != nil { // independent of the umask
		return err
	}
	for _, d := range dirs {
		path := filepath.Join(root, d.Name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if err := os.Chown(path, d.UID, d.GID); err != nil {
			return err
		}
		if err := os.Chmod(path, d.Mode); err != nil {
			return err
		}
	}
	return nil
}

// MkfsSmall makes a file system as Pantavisor's disks have it: mke2fs's own defaults with
// blocks of 1 KiB, which leave more room on a device of a few MiB. fsType is "ext4" or
// "ext3".
func MkfsSmall(ctx context.Context, device, fsType string) error {
	err := run(ctx, []string{"MKE2FS_SKIP_PROGRESS=1"}, "mke2fs", "-q", "-F", "-t", fsType, "-b", "1024", device)
	if _, ok := errors.AsType[*toolError](err); ok {
		return fmt.Errorf("%s: %w: %w", device, ErrMkfs, err)
	}
	return err
}
