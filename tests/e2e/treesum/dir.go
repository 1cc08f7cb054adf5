package treesum

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// perEngine are the files that docker itself puts into every container's root.
var perEngine = map[string]bool{".dockerenv": true, "dev": true, "proc": true, "sys": true}

// inode names a file within one tree. The device is left out: overlay gives the
// files of each lower a device number of their own unless xino is on.
type inode struct{ ino, ctime uint64 }

// FromDir reads the tree under root, leaving out what is mounted below it and
// what docker adds to a container's root.
func FromDir(root string) (Tree, error) {
	mounts, err := mountsBelow(root)
	if err != nil {
		return nil, err
	}
	t := Tree{}
	inodes := map[inode][]string{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if mounts[path] || perEngine[rel] {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		e, id, links, err := stat(path, rel)
		if err != nil {
			return err
		}
		t[rel] = e
		if links > 1 && e.Type != 'd' {
			inodes[id] = append(inodes[id], rel)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	linkGroups(t, inodes)
	return t, nil
}

func stat(path, rel string) (*Entry, inode, uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, inode{}, 0, fmt.Errorf("lstat %s: %w", path, err)
	}
	e := &Entry{Path: rel, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid)}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = 'd'
	case unix.S_IFREG:
		e.Type, e.Size, e.MTime = 'f', st.Size, int64(st.Mtim.Sec) //nolint:unconvert // 32 bit has another type
		e.Sum, err = sumFile(path)
	case unix.S_IFLNK:
		e.Type, e.MTime = 'l', int64(st.Mtim.Sec) //nolint:unconvert // 32 bit has another type
		e.Target, err = os.Readlink(path)
	case unix.S_IFIFO:
		e.Type = 'p'
	case unix.S_IFSOCK:
		e.Type = 's'
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Type = 'c'
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			e.Type = 'b'
		}
		e.Device = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if err != nil {
		return nil, inode{}, 0, err
	}
	if e.Xattrs, err = xattrs(path); err != nil {
		return nil, inode{}, 0, err
	}
	id := inode{st.Ino, uint64(st.Ctim.Sec)<<30 | uint64(st.Ctim.Nsec)}
	return e, id, uint64(st.Nlink), nil //nolint:unconvert // 32 bits wide on arm
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// xattrs returns the attributes that belong to the file's owner: overlay's own
// bookkeeping is left out, so that a merged tree and a tar compare equal.
func xattrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs of %s: %w", path, err)
	}
	var out map[string]string
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("xattr %s of %s: %w", name, path, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(value[:n])
	}
	return out, nil
}

// mountsBelow is the set of mount points under root, root itself left out.
func mountsBelow(root string) (map[string]bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]bool{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 5 {
			continue
		}
		if p := fields[4]; p != root && strings.HasPrefix(p, strings.TrimSuffix(root, "/")+"/") {
			out[p] = true
		}
	}
	return out, sc.Err()
}
