package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"layervault/internal/durable"
)

// use is one of docker's mounts of a volume.
type use struct {
	Process string `json:"process"` // of ours, that mounted it
	Dir     string `json:"dir"`     // the name of its mount point
	// Count is how often docker mounted it under this id and did not unmount it: docker cp
	// does so under the id of the running container's own mount.
	Count int `json:"count"`
}

// uses are docker's mounts of one volume, by docker's ids. They are of this boot only:
// after a reboot nothing is mounted.
type uses map[string]use

type usesFile struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`
	Uses    uses   `json:"uses"`
}

// The versions of the list of uses; version 1 has no counts. It has no authentication but
// the boot ID, whose 122 random bits only the running kernel knows: an attacker who writes to
// a switched-off disk cannot predict the ID of a later boot, and an old list is not read.
const (
	usesVersion    = 2
	oldUsesVersion = 1
)

// usesFormat is the format of a list of uses. A use has about 250 bytes.
var usesFormat = durable.Format{Oldest: oldUsesVersion, Newest: usesVersion, MaxSize: 16 << 20}

func usesPath(id ID) string { return filepath.Join(mountsDir, id.String()+".json") }

// uses reads docker's mounts of a volume. A file that cannot be understood counts as none:
// the kernel knows what is mounted.
func (s *Store) uses(id ID) (uses, error) {
	data, err := s.state.ReadFile(usesPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return uses{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mounts of volume %s: %w", id, err)
	}
	u, err := decodeUses(data, s.boot)
	if err != nil {
		s.log.Warn("cannot read docker's mounts of a volume; using the kernel's mount table", "volume", id.String(), "error", err)
		return uses{}, nil
	}
	return u, nil
}

// decodeUses reads a list of uses; those of another boot are none.
func decodeUses(data []byte, boot string) (uses, error) {
	var file usesFile
	if err := usesFormat.Decode("list of mounts", data, &file); err != nil {
		return nil, err
	}
	u := uses{}
	if file.Boot != boot {
		return u, nil
	}
	for id, one := range file.Uses {
		if file.Version == oldUsesVersion {
			one.Count = 1
		}
		if one.Count < 1 || one.Dir != filepath.Base(one.Dir) || !filepath.IsLocal(one.Dir) {
			return nil, fmt.Errorf("invalid entry: mount %q at %q, count %d", id, one.Dir, one.Count)
		}
		u[id] = one
	}
	return u, nil
}

// keepUses writes docker's mounts of a volume. It is not synced: a crash that loses it
// loses the mounts too.
func (s *Store) keepUses(id ID, u uses) error {
	name := usesPath(id)
	if len(u) == 0 {
		if err := s.state.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mounts of volume %s: %w", id, err)
		}
		return nil
	}
	data, err := json.Marshal(usesFile{usesVersion, s.boot, u})
	if err != nil {
		return err
	}
	tmp := filepath.Join(mountsDir, "."+id.String()+".tmp")
	err = s.state.WriteFile(tmp, append(data, '\n'), 0o600)
	if err == nil {
		err = s.state.Rename(tmp, name)
	}
	if err != nil {
		return fmt.Errorf("mounts of volume %s: %w", id, err)
	}
	return nil
}

// dirs lists the mount points, each once.
func (u uses) dirs() []string {
	var dirs []string
	for _, one := range u {
		dirs = append(dirs, one.Dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// at counts the mounts at one mount point.
func (u uses) at(dir string) (n int) {
	for _, one := range u {
		if one.Dir == dir {
			n += one.Count
		}
	}
	return n
}

// more counts a mount by an id at a mount point.
func (u uses) more(id, process, dir string) {
	u[id] = use{process, dir, u[id].Count + 1}
}

// less takes one mount of an id back.
func (u uses) less(id string) {
	one := u[id]
	if one.Count--; one.Count > 0 {
		u[id] = one
		return
	}
	delete(u, id)
}

// mountDir names the mount point of a volume's content. Each revision has one of its own:
// containers of two revisions may run at the same time.
func mountDir(id ID, p place) string {
	// See placeAt for the way back.
	if base, ok := strings.CutPrefix(p.dir, revisionDir+"/"); ok {
		revision, _, _ := strings.Cut(base, "/")
		return id.String() + "@" + revision
	}
	return id.String()
}
