package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// The states of a disk.
const (
	StateReady       = "ready"
	StateNew         = "new"     // made at its first use
	StateMounted     = "mounted" // open
	StateFaulty      = "faulty"  // Problems say why
	StateUnsupported = "unsupported"
)

// Status is what can be found out about a disk without opening it.
type Status struct {
	Disk
	State    string
	Mounts   []string // in this mount namespace, in the order of mounting
	Problems []string
}

// Inspect finds out about every disk, in the file's order. It makes nothing.
func (s *Set) Inspect() ([]Status, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	slices.SortFunc(infos, func(a, b *mountinfo.Info) int { return a.ID - b.ID })
	all := make([]Status, 0, len(s.file.Disks))
	for _, d := range s.file.Disks {
		all = append(all, s.inspect(d, infos))
	}
	return all, nil
}

func (s *Set) inspect(d Disk, infos []*mountinfo.Info) Status {
	st := Status{Disk: d, State: StateReady}
	if !d.Known() {
		st.State = StateUnsupported
		return st
	}
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if d.Type == Directory {
		switch info, err := os.Stat(d.Dir); {
		case errors.Is(err, fs.ErrNotExist):
			st.State = StateNew
		case err != nil:
			problem("%v", err)
		case !info.IsDir():
			problem("%s is no directory", d.Dir)
		}
	} else {
		s.inspectImage(d, &st, problem)
		if number, err := s.opened(d); err == nil && number != 0 {
			st.State = StateMounted
			for _, m := range infos {
				if m.Major == int(unix.Major(number)) && m.Minor == int(unix.Minor(number)) && m.Root == "/" {
					st.Mounts = append(st.Mounts, m.Mountpoint)
				}
			}
		}
	}
	if real, err := filepath.EvalSymlinks(d.Dir); err == nil {
		root, err := filepath.EvalSymlinks(s.cfg.Rules.Root)
		if err == nil && real != root && !strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
			problem("%s is %s, outside %s", d.Dir, real, root)
		}
	}
	if len(st.Problems) > 0 {
		st.State = StateFaulty
	}
	return st
}

func (s *Set) opened(d Disk) (uint64, error) {
	if d.Type == LUKS {
		return s.luks(d, "").Opened()
	}
	return s.plain(d).Opened()
}

func (s *Set) inspectImage(d Disk, st *Status, problem func(string, ...any)) {
	made, err := isFile(d.marker())
	if err != nil {
		problem("%v", err)
	}
	image, err := os.Lstat(d.ImagePath())
	switch {
	case err == nil && !image.Mode().IsRegular():
		problem("%s is no regular file", d.ImagePath())
	case err == nil && d.Type != LUKS && image.Size() != d.Size:
		problem("%s has %d bytes; device.json says %d MiB", d.ImagePath(), image.Size(), d.Size>>20)
	case err != nil && made:
		problem("%s was made once, and its image is missing", d.ImagePath())
	case err != nil:
		st.State = StateNew
		s.inspectSpace(d, problem)
		return
	}
	if d.Type == LUKS {
		return
	}
	switch info, err := os.Lstat(s.source(d)); {
	case err != nil:
		problem("the key is missing: %v", err)
	case info.Mode().Perm()&0o077 != 0:
		problem("%s may be read by others: chmod 600", s.source(d))
	case d.Type == Versatile && info.Size() < keySize:
		problem("%s has %d bytes, a key has %d", s.source(d), info.Size(), keySize)
	}
}

// inspectSpace asks whether a new image would fit.
func (s *Set) inspectSpace(d Disk, problem func(string, ...any)) {
	have := d.Dir
	for have != "/" {
		if _, err := os.Stat(have); err == nil {
			break
		}
		have = filepath.Dir(have)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(have, &st); err != nil {
		problem("%s: %v", have, err)
		return
	}
	if free := int64(st.Bavail) * int64(st.Bsize); d.Type != LUKS && d.Size > free { //nolint:unconvert // 32 bit has another type
		problem("%d MiB are wanted, %s has %d MiB free", d.Size>>20, have, free>>20)
	}
}
