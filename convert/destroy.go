package convert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Destroying a source: every regular file is overwritten with zeros where it has blocks, the
// disk is synced, and then the names are removed, bottom up. On a disk that writes in place the
// old bytes are gone then. A flash disk, and a file system that copies on write, puts the zeros
// elsewhere: there the old blocks are only free, and the trim at the end of a commit asks the
// disk to forget them; whether and when it does is the disk's business.

// destroyer destroys one source.
type destroyer struct {
	ctx  context.Context
	seen map[uint64]uint64 // files with several names: how many were found
	zero []byte
}

// destroyTree destroys a source. It can be repeated, whatever is left of it.
func destroyTree(ctx context.Context, at *folder, name string, step func(string) error) error {
	d := &destroyer{ctx: ctx, seen: map[uint64]uint64{}, zero: make([]byte, chunk)}
	if there, err := at.exists(name); err != nil || !there {
		return err
	}
	if err := d.walk(at, name, 0, func(_ *folder, _ string, st *unix.Stat_t) error {
		if st.Nlink > 1 {
			d.seen[st.Ino]++
		}
		return nil
	}); err != nil {
		return err
	}
	if err := d.walk(at, name, 0, d.overwrite); err != nil {
		return err
	}
	if err := at.syncDisk(); err != nil {
		return err
	}
	if err := step("overwritten"); err != nil {
		return err
	}
	if err := at.remove(name); err != nil {
		return err
	}
	return at.sync()
}

// walk calls do for every regular file.
func (d *destroyer) walk(at *folder, name string, depth int, do func(*folder, string, *unix.Stat_t) error) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	st, err := at.stat(name)
	if err != nil {
		return err
	}
	switch kindOf(&st) {
	case unix.S_IFREG:
		return do(at, name, &st)
	case unix.S_IFDIR:
	default:
		return nil
	}
	if depth >= maxDepth {
		return at.fail("remove", name, ErrTooDeep)
	}
	below, err := openFolder(at, name)
	if err != nil {
		return err
	}
	defer below.close()
	names, err := below.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := d.walk(below, n, depth+1, do); err != nil {
			return err
		}
	}
	return nil
}

// overwrite writes zeros over what a file has on the disk. A file that has names outside the
// source is somebody else's, too: it only loses the name.
func (d *destroyer) overwrite(at *folder, name string, st *unix.Stat_t) error {
	if st.Nlink > 1 && d.seen[st.Ino] < st.Nlink {
		return nil
	}
	if st.Nlink > 1 {
		if d.seen[st.Ino] == math.MaxUint64 {
			return nil // overwritten under another name
		}
		d.seen[st.Ino] = math.MaxUint64
	}
	if st.Blocks == 0 {
		return nil
	}
	fd, err := openBeneath(at.fd, name, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return at.fail("overwrite", name, err)
	}
	f := os.NewFile(uintptr(fd), join(at.path, name))
	defer func() { _ = f.Close() }()
	for pos := int64(0); pos < st.Size; {
		from, to, err := nextData(f, pos, st.Size)
		if err != nil || from >= st.Size {
			return err
		}
		for from < to {
			if d.ctx.Err() != nil {
				return context.Cause(d.ctx)
			}
			n, err := f.WriteAt(d.zero[:min(chunk, to-from)], from)
			if err != nil {
				return fmt.Errorf("overwrite: %w", err)
			}
			from += int64(n)
		}
		pos = to
	}
	return nil
}

// fstrimRange is the kernel's struct fstrim_range.
type fstrimRange struct{ start, len, minLen uint64 }

// fitrim is the kernel's FITRIM.
const fitrim = 0xc0185879

// trimDisk tells the disk of a folder to forget all free blocks, and says how many bytes those
// are.
func trimDisk(at *folder) (int64, error) {
	r := fstrimRange{len: math.MaxUint64}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(at.fd), fitrim, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return 0, errors.Join(at.fail("trim", "", errno))
	}
	return int64(r.len), nil
}
