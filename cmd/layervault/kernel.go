package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"layervault/internal/mounts"
)

// imagePrefix begins the device-mapper name of every open image.
const imagePrefix = "layervault-"

// kernelStatus is what the kernel has open.
type kernelStatus struct {
	OpenImages int `json:"open_images"`
}

// spaceStatus is the disk below --persist.
type spaceStatus struct {
	Filesystem string `json:"filesystem,omitempty"`
	Total      int64  `json:"total_bytes"`
	Free       int64  `json:"free_bytes"` // to unprivileged users, as df shows it
}

// readKernel counts open images and those of the given layers that are mounted. It
// reads sysfs and not device-mapper's control device, which an ordinary user may
// not open and which may be absent.
func readKernel(rows []imageRow) (st kernelStatus, mounted int, err error) {
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return st, 0, fmt.Errorf("list device-mapper devices: %w", err)
	}
	for _, name := range names {
		// A device that went away in between is no longer open.
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), imagePrefix) {
			st.OpenImages++
		}
	}
	ids := make(map[string]bool, len(rows))
	for _, r := range rows {
		ids[r.Layer] = true
	}
	// The driver shows a layer at HOME/ID/merged.
	infos, err := mounts.List(func(m *mountinfo.Info) bool {
		dir, base := filepath.Split(m.Mountpoint)
		return m.FSType == "overlay" && base == "merged" && ids[filepath.Base(dir)]
	})
	if err != nil {
		return st, 0, err
	}
	seen := map[string]bool{}
	for _, m := range infos {
		seen[m.Mountpoint] = true
	}
	return st, len(seen), nil
}

// readSpace asks the file system that holds dir, or that will once dir is made.
func readSpace(dir string) (spaceStatus, error) {
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return spaceStatus{}, fmt.Errorf("space of %s: %w", dir, err)
	}
	st := spaceStatus{Total: int64(fs.Blocks) * int64(fs.Bsize), Free: int64(fs.Bavail) * int64(fs.Bsize)}
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
