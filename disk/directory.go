package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
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
	if err := unix.Mount(d.Dir, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", d.Dir, at, err)
	}
	return nil
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
