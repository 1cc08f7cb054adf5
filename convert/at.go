package convert

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Nothing here follows a path that another program could bend: a folder is opened from the
// folder above it, by one name, without symbolic links and without leaving the file system.
// What is done to a file is done to its name in an open folder, or to the open file.

// Limits of a tree.
const (
	// maxDepth is how deep a tree goes. Each level holds two open folders; paths of container
	// images end before 100 levels, and path names at 4096 bytes.
	maxDepth = 512
	// maxNames is the number of names in one folder: they are sorted in memory, 40 MiB of them.
	maxNames = 400_000
	// maxTries is how often a path is opened anew while others rename what is in it.
	maxTries = 100
)

var (
	// ErrTooDeep, ErrTooMany: a tree that is beyond what is copied.
	ErrTooDeep = errors.New("folders are nested too deep")
	ErrTooMany = errors.New("too many names in one folder")
	// ErrMounted: another file system is mounted inside a source.
	ErrMounted = errors.New("a file system is mounted inside")
	// ErrOutside: a symbolic link stands where a folder or file is expected.
	ErrOutside = errors.New("symbolic link in the path")
)

// openBeneath opens a path below an open folder. A symbolic link in it is ErrOutside, a mount
// point ErrMounted.
func openBeneath(at int, path string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(at, path, &how)
		switch {
		case err == nil:
			return fd, nil
		// EAGAIN: something in the path was renamed meanwhile; or, for good, a lease.
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) && tries < maxTries:
			continue
		case errors.Is(err, unix.ELOOP):
			err = fmt.Errorf("%w: %w", ErrOutside, err)
		case errors.Is(err, unix.EXDEV):
			err = fmt.Errorf("%w: %w", ErrMounted, err)
		}
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
}

// folder is an open folder, shared by whoever still works in it.
type folder struct {
	fd   int
	path string // for messages
	refs atomic.Int32
}

func newFolder(fd int, path string) *folder {
	f := &folder{fd: fd, path: path}
	f.refs.Store(1)
	return f
}

// openFolder opens a folder below an open one.
func openFolder(at *folder, name string) (*folder, error) {
	fd, err := openBeneath(at.fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, at.fail("open", name, err)
	}
	return newFolder(fd, join(at.path, name)), nil
}

func (f *folder) share() *folder {
	f.refs.Add(1)
	return f
}

func (f *folder) close() {
	if f.refs.Add(-1) == 0 {
		_ = unix.Close(f.fd)
	}
}

// fail names the file of an error of a system call.
func (f *folder) fail(op, name string, err error) error {
	var had *os.PathError
	if errors.As(err, &had) {
		err = had.Err
	}
	return &os.PathError{Op: op, Path: join(f.path, name), Err: err}
}

func (f *folder) stat(name string) (st unix.Stat_t, err error) {
	if err = retry(func() error { return unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		err = f.fail("stat", name, err)
	}
	return st, err
}

// exists reports whether a name is there, whatever it is.
func (f *folder) exists(name string) (bool, error) {
	_, err := f.stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// open opens a regular file to read. Its time of access stays, where the kernel allows that.
func (f *folder) open(name string) (*os.File, error) {
	fd, err := openBeneath(f.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		fd, err = openBeneath(f.fd, name, unix.O_RDONLY|unix.O_NONBLOCK)
	}
	if err != nil {
		return nil, f.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), join(f.path, name)), nil
}

// names lists a folder, sorted.
func (f *folder) names() ([]string, error) {
	fd, err := openBeneath(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY) // its own position
	if err != nil {
		return nil, f.fail("read", "", err)
	}
	d := os.NewFile(uintptr(fd), f.path)
	defer func() { _ = d.Close() }()
	var names []string
	for {
		some, err := d.Readdirnames(4096)
		names = append(names, some...)
		if len(names) > maxNames {
			return nil, f.fail("read", "", ErrTooMany)
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, f.fail("read", "", err)
		}
	}
}

// each calls do for every name of the folder, in order, with what it is.
func (f *folder) each(do func(name string, st *unix.Stat_t) error) error {
	names, err := f.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		st, err := f.stat(name)
		if err == nil {
			err = do(name, &st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unlink removes a name, not a folder. A name that is gone is no error.
func (f *folder) unlink(name string) error {
	if err := unix.Unlinkat(f.fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return f.fail("remove", name, err)
	}
	return nil
}

// remove removes a name, and everything below it.
func (f *folder) remove(name string) error { return f.removeBelow(name, 0) }

func (f *folder) removeBelow(name string, depth int) error {
	st, err := f.stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if kindOf(&st) != unix.S_IFDIR {
		return f.unlink(name)
	}
	if depth >= maxDepth {
		return f.fail("remove", name, ErrTooDeep)
	}
	below, err := openFolder(f, name)
	if err != nil {
		return err
	}
	defer below.close()
	names, err := below.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := below.removeBelow(n, depth+1); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return f.fail("remove", name, err)
	}
	return nil
}

// sync makes the names of the folder durable.
func (f *folder) sync() error {
	if err := unix.Fsync(f.fd); err != nil {
		return f.fail("sync", "", err)
	}
	return nil
}

// syncDisk writes everything of the folder's file system: one call for thousands of files.
func (f *folder) syncDisk() error {
	if err := unix.Syncfs(f.fd); err != nil {
		return f.fail("sync the disk of", "", err)
	}
	return nil
}

// link is a path to a name for the calls that have no form for open folders, those of extended
// attributes. The kernel goes through the open folder, and the name is the last element.
func (f *folder) link(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", f.fd, name) }

func kindOf(st *unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

// kindName is what people call a kind of file.
func kindName(st *unix.Stat_t) string {
	switch kindOf(st) {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "folder"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "device"
}

func join(dir, name string) string {
	if dir == "" || dir == "." {
		return cmp.Or(name, ".")
	}
	return strings.TrimSuffix(dir+"/"+name, "/")
}

func retry(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
