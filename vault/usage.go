package vault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/persist"
)

// ErrNoLayout: there is no vault yet.
var ErrNoLayout = errors.New("no vault yet")

// HasRing says whether a tier has a key ring, or a copy of one.
func (v *Vault) HasRing(tier persist.Tier) bool {
	ring := v.cfg.Layout.KeyRing(tier)
	return exists(ring) || exists(ring+".bak")
}

// DirUsage is what one directory of the layout takes. The JSON names are those of persist du
// --json.
type DirUsage struct {
	Path string       `json:"path"`
	For  string       `json:"for"`
	Tier persist.Tier `json:"tier,omitempty"`
	Area persist.Area `json:"area,omitempty"`
	Disk int64        `json:"disk_bytes"`           // for an area: of its image
	Used int64        `json:"used_bytes,omitempty"` // by the files in an open area
}

// LayoutUsage is what the layout takes of its disk.
type LayoutUsage struct {
	Directories []DirUsage `json:"directories"`
	Room        area.Room  `json:"room"`
}

// LayoutUsage measures the directories of the layout that hold something.
func (v *Vault) LayoutUsage(ctx context.Context) (u LayoutUsage, err error) {
	set, l := v.Areas(), v.cfg.Layout
	u.Directories = []DirUsage{}
	for _, d := range l.Dirs() {
		use := DirUsage{Path: d.Path, For: d.For, Tier: d.Tier, Area: d.Area}
		switch {
		case d.Area != "":
			st := set.State(d.Area)
			use.Disk, use.Used = st.Disk, st.Used
		case d.Path == l.Root, d.Path == l.Tier(d.Tier), d.Path == l.AreaImages(persist.Vault):
			continue // made of others that are listed
		default:
			if use.Disk, err = diskUsage(ctx, d.Path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return u, err
			}
		}
		u.Directories = append(u.Directories, use)
	}
	u.Room, err = set.Room()
	return u, err
}

// diskUsage is what a directory takes on its own file system.
func diskUsage(ctx context.Context, dir string) (n int64, err error) {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	err = filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(at, &st)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // went away meanwhile
		}
		if err != nil {
			return &os.PathError{Op: "stat", Path: at, Err: err}
		}
		if st.Dev != top.Dev {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		n += st.Blocks * 512
		return nil
	})
	return n, err
}
