package area

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/persist"
)

// The states of an area.
const (
	StateAbsent  = "absent"  // there is no image
	StateClosed  = "closed"  // there is an image, which is not mounted at the area's place
	StateOpen    = "open"    // the area is mounted
	StateDamaged = "damaged" // Reason says why the image, or its place, cannot be used
)

// State is what can be found out of an area without a key. The JSON names are those of persist
// status --json and persist du --json.
type State struct {
	Area   persist.Area `json:"area"`
	State  string       `json:"state"`
	Reason string       `json:"reason,omitempty"`
	Path   string       `json:"path"`
	Image  string       `json:"image"`
	Disk   int64        `json:"disk_bytes"`           // of the image on the disk
	Used   int64        `json:"used_bytes,omitempty"` // by files; open areas only
	Free   int64        `json:"free_bytes,omitempty"` // for more, as the limit has it; open areas only
}

// State reads one area. It takes no lock and changes nothing.
func (s *Set) State(a persist.Area) State {
	st := State{Area: a, Path: s.cfg.Layout.Area(a), Image: s.cfg.Layout.AreaImage(a)}
	damaged := func(err error) State {
		st.State, st.Reason = StateDamaged, err.Error()
		return st
	}
	open, err := s.mounted(a)
	if err != nil {
		return damaged(err)
	}
	st.Disk, err = occupied(st.Image)
	if errors.Is(err, fs.ErrNotExist) && !open {
		st.State = StateAbsent
		return st
	}
	if err != nil {
		return damaged(err)
	}
	if _, _, err := s.devices(a).Identify(); err != nil && !errors.Is(err, crypt.ErrNotExist) {
		return damaged(err)
	}
	st.State = StateClosed
	if !open {
		return st
	}
	st.State = StateOpen
	var f unix.Statfs_t
	if err := unix.Statfs(st.Path, &f); err != nil {
		return damaged(&os.PathError{Op: "statfs", Path: st.Path, Err: err})
	}
	st.Used = int64(f.Blocks-f.Bfree) * int64(f.Bsize)
	st.Free = int64(f.Bavail) * int64(f.Bsize)
	return st
}
