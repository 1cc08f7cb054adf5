package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"layervault/internal/mounts"
)

// Directory is a folder in the clear.
const Directory Type = "directory"

// directory is the type of disks that are a folder in the clear: path is the folder.
type directory struct{}

func (directory) keys() []string { return nil }

func (directory) read(diskEntry, *Disk) error { return nil }

func (directory) check(d *Disk, path string, rules Rules) error {
	d.Dir = strings.TrimRight(path, "/")
	return checkDir(d.Dir, rules.Root)
}

// files implements kind: two directories may lie in each other.
func (directory) files(Disk) []string { return nil }

func (directory) of(_ *Set, d Disk) opener { return directoryDisk{d} }

type directoryDisk struct{ Disk }

func (d directoryDisk) mount(_ context.Context, at string) error {
	return mounts.Bind(d.Dir, at)
}

func (directoryDisk) opened() (uint64, error) { return 0, nil }

func (d directoryDisk) inspect(st *Status) {
	switch info, err := os.Stat(d.Dir); {
	case errors.Is(err, fs.ErrNotExist):
		st.State = StateNew
	case err != nil:
		st.problem("%v", err)
	case !info.IsDir():
		st.problem("%s is no directory", d.Dir)
	}
}
