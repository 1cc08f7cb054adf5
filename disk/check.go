package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// The states of a disk.
const (
	StateReady       = "ready"
	StateNew         = "new"     // made at its first use
	StateMounted     = "mounted" // open
	StateFaulty      = "faulty"  // Problems say why
	StateUnsupported = "unsupported"
)

// Status is the state of a disk, as far as it is known without opening it.
type Status struct {
	Disk
	State    string
	Mounts   []string // in this mount namespace, in the order of mounting
	Problems []string // that keep it from being used, or would lose data
	Warnings []string // that do not
}

func (st *Status) problem(format string, args ...any) {
	st.Problems = append(st.Problems, fmt.Sprintf(format, args...))
}

func (st *Status) warn(format string, args ...any) {
	st.Warnings = append(st.Warnings, fmt.Sprintf(format, args...))
}

// Inspect gives the state of every disk, in the file's order. It makes nothing.
func (s *Set) Inspect() ([]Status, error) {
	if s.bad != nil {
		return nil, s.bad
	}
	infos, err := mounts.List(nil)
	if err != nil {
		return nil, err
	}
	all := make([]Status, 0, len(s.file.Disks))
	for _, d := range s.file.Disks {
		all = append(all, s.inspect(d, infos))
	}
	return all, nil
}

// ErrFaulty: a disk has a problem.
var ErrFaulty = errors.New("faulty disk")

// Faults are the problems of disks, each as an error that is ErrFaulty.
func Faults(all []Status) (errs []error) {
	for _, st := range all {
		for _, p := range st.Problems {
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrFaulty, st.Name, p))
		}
	}
	return errs
}

func (s *Set) inspect(d Disk, infos []*mountinfo.Info) Status {
	st := Status{Disk: d, State: StateReady}
	switch {
	case !d.Known():
		st.State = StateUnsupported
		return st
	case d.Fault != nil:
		st.State, st.Problems = StateFaulty, []string{d.Fault.Error()}
		return st
	}
	opener := d.Type.kind().of(s, d)
	opener.inspect(&st)
	if number, err := opener.opened(); err == nil && number != 0 {
		st.State = StateMounted
		isOf := mounts.OnDevice(number)
		for _, m := range infos {
			if isOf(m) && m.Root == "/" {
				st.Mounts = append(st.Mounts, m.Mountpoint)
			}
		}
	}
	if real, err := filepath.EvalSymlinks(d.Dir); err == nil {
		root, err := filepath.EvalSymlinks(s.cfg.Rules.Root)
		if err == nil && real != root && !strings.HasPrefix(real, strings.TrimSuffix(root, "/")+"/") {
			st.problem("%s resolves to %s, outside %s", d.Dir, real, root)
		}
	}
	if len(st.Problems) > 0 {
		st.State = StateFaulty
	}
	return st
}

// inspectImage checks the image, and reports whether it exists.
func (st *Status) inspectImage(im image) (made bool) {
	once, err := isFile(im.marker())
	if err != nil {
		st.problem("%v", err)
	}
	info, err := os.Lstat(st.ImagePath())
	switch {
	case err == nil && !info.Mode().IsRegular():
		st.problem("%s is not a regular file", st.ImagePath())
	case err == nil && im.wants() > 0 && info.Size() > im.wants():
		// Pantavisor takes an image as it is; this one was made when device.json said more.
		st.warn("%s has %d bytes; device.json says %d MiB", st.ImagePath(), info.Size(), st.Size>>20)
	case err == nil && info.Size() < im.wants():
		st.problem("%s has %d bytes; device.json says %d MiB: image is truncated, or device.json was changed", st.ImagePath(), info.Size(), st.Size>>20)
	case err != nil && once:
		st.problem("image %s is missing, but the disk was set up before", st.ImagePath())
	case err != nil:
		st.State = StateNew
		st.inspectSpace(im.wants())
		return false
	}
	return true
}

// inspectSpace asks whether a new image would fit.
func (st *Status) inspectSpace(size int64) {
	have := st.Dir
	for have != "/" {
		if _, err := os.Stat(have); err == nil {
			break
		}
		have = filepath.Dir(have)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(have, &fs); err != nil {
		st.problem("%s: %v", have, err)
		return
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); size > free { //nolint:unconvert // 32 bit has another type
		st.problem("%d MiB needed, %s has %d MiB free", size>>20, have, free>>20)
	}
}
