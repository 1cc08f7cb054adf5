package convert

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// markName is the extended attribute of a file that was copied, written to the disk, read back
// and compared. It says what the source was then, and the digest. It is only on copies that are
// not complete, and lets the next run go on where this one ended. Only root can set it.
const markName = "trusted.layervault.upgrade"

// maxXattr is the size of an attribute, and of the list of names: the kernel's own limit.
const maxXattr = 64 << 10

// mark is what markName says.
type mark struct {
	size         int64
	mtime, ctime int64 // nanoseconds
	inode        uint64
	sum          string
}

func markOf(st *unix.Stat_t, sum string) mark {
	return mark{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, sum: sum}
}

// of reports whether the mark was made for a source as it is now.
func (m mark) of(st *unix.Stat_t) bool { return m == markOf(st, m.sum) }

func (m mark) String() string {
	return fmt.Sprintf("1 %d %d %d %d %s", m.size, m.mtime, m.ctime, m.inode, m.sum)
}

func parseMark(text string) (m mark, ok bool) {
	words := strings.Split(text, " ")
	if len(words) != 6 || words[0] != "1" || len(words[5]) != 64 {
		return mark{}, false
	}
	var errs [4]error
	m.size, errs[0] = strconv.ParseInt(words[1], 10, 64)
	m.mtime, errs[1] = strconv.ParseInt(words[2], 10, 64)
	m.ctime, errs[2] = strconv.ParseInt(words[3], 10, 64)
	m.inode, errs[3] = strconv.ParseUint(words[4], 10, 64)
	m.sum = words[5]
	return m, errors.Join(errs[:]...) == nil
}

// getMark reads the mark of a copy; false where it has none.
func (f *folder) getMark(name string) (mark, bool) {
	var buf [256]byte
	n, err := unix.Lgetxattr(f.link(name), markName, buf[:])
	if err != nil {
		return mark{}, false
	}
	return parseMark(string(buf[:n]))
}

// setMark marks a copy. kept is false on a file system that cannot keep the mark, or has no
// room for it: then another run copies the file again.
func (f *folder) setMark(name string, m mark) (kept bool, err error) {
	err = unix.Lsetxattr(f.link(name), markName, []byte(m.String()), 0)
	if err != nil && !noRoomForMark(err) {
		return false, f.fail("mark", name, err)
	}
	return err == nil, nil
}

func noRoomForMark(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EDQUOT)
}

// unmark removes a mark.
func (f *folder) unmark(name string) error {
	err := unix.Lremovexattr(f.link(name), markName)
	if err != nil && !errors.Is(err, unix.ENODATA) && !noRoomForMark(err) {
		return f.fail("unmark", name, err)
	}
	return nil
}

// xattrs lists the extended attributes of a name, sorted, without the mark.
func (f *folder) xattrs(name string) ([]string, error) {
	path := f.link(name)
	n, err := unix.Llistxattr(path, nil)
	if err != nil || n == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
		return nil, err
	}
	buf := make([]byte, maxXattr)
	if n, err = unix.Llistxattr(path, buf); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range bytes.Split(buf[:n], []byte{0}) {
		if len(name) > 0 && string(name) != markName {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f *folder) xattr(name, attr string) ([]byte, error) {
	path := f.link(name)
	n, err := unix.Lgetxattr(path, attr, nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = unix.Lgetxattr(path, attr, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// copyXattrs gives a copy the extended attributes of its source, and no others: access lists,
// capabilities and labels are among them.
func copyXattrs(from *folder, name string, to *folder, toName string) error {
	want, err := from.xattrs(name)
	if err != nil {
		return from.fail("read the extended attributes of", name, err)
	}
	have, err := to.xattrs(toName)
	if err != nil {
		return to.fail("read the extended attributes of", toName, err)
	}
	for _, attr := range have {
		// A security module labels new files by itself, and may not let its label be removed.
		if !slices.Contains(want, attr) && !strings.HasPrefix(attr, "security.") {
			if err := unix.Lremovexattr(to.link(toName), attr); err != nil && !errors.Is(err, unix.ENODATA) {
				return to.fail("remove extended attribute "+attr+" of", toName, err)
			}
		}
	}
	for _, attr := range want {
		value, err := from.xattr(name, attr)
		if errors.Is(err, unix.ENODATA) { // it went meanwhile; the time of change says so
			continue
		}
		if err != nil {
			return from.fail("read extended attribute "+attr+" of", name, err)
		}
		if err := unix.Lsetxattr(to.link(toName), attr, value, 0); err != nil {
			return to.fail("set extended attribute "+attr+" of", toName, err)
		}
	}
	return nil
}

// copyMeta gives a copy the owner, mode, extended attributes and times of its source. In this
// order: a new owner takes the setuid bit and capabilities away, and everything changes times.
func copyMeta(from *folder, name string, st *unix.Stat_t, to *folder, toName string) error {
	if err := unix.Fchownat(to.fd, toName, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return to.fail("set the owner of", toName, err)
	}
	if kindOf(st) != unix.S_IFLNK { // a symbolic link has no mode of its own
		if err := chmod(to, toName, st.Mode&0o7777); err != nil {
			return err
		}
	}
	if err := copyXattrs(from, name, to, toName); err != nil {
		return err
	}
	return setTimes(to, toName, st)
}

// chmod sets a mode without following a link: fchmodat cannot say so before Linux 6.6. The name
// is one that this run made, in a folder that only root can write to.
func chmod(to *folder, name string, mode uint32) error {
	fd, err := openBeneath(to.fd, name, unix.O_PATH)
	if err != nil {
		return to.fail("set the mode of", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return to.fail("set the mode of", name, err)
	}
	return nil
}

func setTimes(to *folder, name string, st *unix.Stat_t) error {
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(to.fd, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return to.fail("set the times of", name, err)
	}
	return nil
}

// sameMeta reports what differs between a source and its copy, "" for nothing. Times of access
// do not count.
func sameMeta(a, b *unix.Stat_t) string {
	switch {
	case kindOf(a) != kindOf(b):
		return "kind"
	case a.Mode != b.Mode && kindOf(a) != unix.S_IFLNK:
		return "mode"
	case a.Uid != b.Uid || a.Gid != b.Gid:
		return "owner"
	case a.Mtim != b.Mtim:
		return "time of change"
	case kindOf(a) != unix.S_IFDIR && a.Size != b.Size:
		return "size"
	case a.Rdev != b.Rdev:
		return "device number"
	}
	return ""
}
