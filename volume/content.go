package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"layervault/internal/durable"
)

// Names in the file system of an image, or in the folder of the clear tier.
const (
	contentDir  = "diff"
	revisionDir = "rev"
	bootFile    = "boot-id"
)

// contentMode is that of a volume's root, as docker and Pantavisor have it. What is above
// it on the host is 0700.
const contentMode = 0o755

// place is where in its file system a volume's content is.
type place struct {
	dir string
	// marker is the file with the ID of the boot that the content belongs to; "" for content
	// that survives boots.
	marker string
}

// placeOf finds the place. revision is the host's, for volumes that are bound to none.
func placeOf(r Record, revision string) (place, error) {
	o := r.Options
	if o.Revision != "" {
		revision = o.Revision
	}
	if o.Persistence == Revision && revision == "" {
		return place{}, fmt.Errorf("%w: volume %s has persistence=revision", ErrNoRevision, r.Name)
	}
	return kindOf(o).content(r, revision), nil
}

// ownContent is the place in a file system, or a folder, that is the volume's alone.
func ownContent(r Record, revision string) place {
	switch r.Options.Persistence {
	case Revision:
		return place{dir: path.Join(revisionDir, revision)}
	case Boot:
		return place{dir: contentDir, marker: bootFile}
	}
	return place{dir: contentDir}
}

// prepare makes the place's directory, empty if it is of another boot, and returns it
// open. Nothing on the way may be a symbolic link that leads out of root.
//
// A crash leaves content of the earlier boot, or none, without the marker of this boot: the
// next mount empties the place again.
func (p place) prepare(root *os.Root, boot string) (*os.File, error) {
	if p.marker != "" {
		if err := p.emptyAtBoot(root, boot); err != nil {
			return nil, fmt.Errorf("empty %s for a new boot: %w", p.dir, err)
		}
	}
	if err := makeDir(root, p.dir); err != nil {
		return nil, err
	}
	return root.Open(p.dir)
}

func (p place) emptyAtBoot(root *os.Root, boot string) error {
	have, err := root.ReadFile(p.marker)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if string(have) == boot {
		return nil
	}
	if err := removeAllIn(root, p.dir); err != nil {
		return err
	}
	if err := makeDir(root, p.dir); err != nil {
		return err
	}
	return durable.WriteFile(root, p.marker+".tmp", p.marker, []byte(boot), 0o600)
}

// makeDir makes a directory and its parents, each for everyone to read whatever the umask.
func makeDir(root *os.Root, dir string) error {
	info, err := root.Lstat(dir)
	if err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%w: %s is not a directory", ErrDamaged, dir)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := path.Dir(dir); parent != "." {
		if err := makeDir(root, parent); err != nil {
			return err
		}
	}
	if err := root.Mkdir(dir, contentMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := root.Chmod(dir, contentMode); err != nil {
		return err
	}
	return durable.SyncDir(root, path.Dir(dir))
}
