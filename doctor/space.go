package doctor

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// Space is what a disk has.
type Space struct {
	Filesystem string `json:"filesystem,omitempty"`
	Total      int64  `json:"total_bytes"`
	Free       int64  `json:"free_bytes"` // to unprivileged users, as df shows it
}

// ReadSpace asks the file system that holds dir, or that will once dir is made.
func ReadSpace(dir string) (Space, error) {
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Space{}, fmt.Errorf("space of %s: %w", dir, err)
	}
	st := Space{Total: int64(fs.Blocks) * int64(fs.Bsize), Free: int64(fs.Bavail) * int64(fs.Bsize)}
	m, err := mountOf(dir)
	if err != nil {
		return st, err
	}
	st.Filesystem = m.FSType
	return st, nil
}

// mountOf finds the mount that a path lies on.
func mountOf(path string) (*mountinfo.Info, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("mount of %s: %w", path, err)
	}
	return mounts.Of(real)
}

// bytesOf prints bytes for people.
func bytesOf(n int64) string { return units.BytesSize(float64(n)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
