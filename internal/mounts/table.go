package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrNoMount: a path lies on no mount of this mount namespace.
var ErrNoMount = errors.New("no such mount")

// List lists the mounts of this mount namespace for which is returns true (nil: all), in the
// order of mounting, which is that of the kernel's table. The mounts' IDs say nothing of time:
// the kernel gives the lowest that is free.
func List(is func(*mountinfo.Info) bool) ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return is != nil && !is(m), false })
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return infos, nil
}

// OnDevice picks the mounts of a device's file system.
func OnDevice(dev uint64) func(*mountinfo.Info) bool {
	return func(m *mountinfo.Info) bool {
		return m.Major == int(unix.Major(dev)) && m.Minor == int(unix.Minor(dev))
	}
}

// Points lists the mount points of mounts.
func Points(infos []*mountinfo.Info) []string {
	var at []string
	for _, m := range infos {
		at = append(at, m.Mountpoint)
	}
	return at
}

// Of finds the mount that a clean absolute path without symbolic links lies on.
func Of(path string) (*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return nil, fmt.Errorf("mount of %s: %w", path, err)
	}
	var best *mountinfo.Info
	for _, m := range infos {
		// Of two mounts at one path the later hides the earlier.
		if best == nil || len(m.Mountpoint) >= len(best.Mountpoint) {
			best = m
		}
	}
	if best == nil {
		return nil, fmt.Errorf("mount of %s: %w", path, ErrNoMount)
	}
	return best, nil
}

// Found is a mount in some mount namespace, as a process of that namespace sees it.
type Found struct {
	*mountinfo.Info
	Process string // its number, or "self"
}

// Everywhere lists the mounts that is picks, in every mount namespace that /proc shows: a
// container's own mounts among them.
func Everywhere(is func(*mountinfo.Info) bool) (found []Found, err error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, proc := range append([]string{"/proc/self"}, procs...) {
		ns, err := os.Readlink(filepath.Join(proc, "ns/mnt"))
		if err != nil || seen[ns] {
			continue // a process that went, or one of a namespace that was looked at
		}
		infos, err := ofProcess(proc, is)
		if err != nil {
			continue
		}
		seen[ns] = true
		for _, m := range infos {
			found = append(found, Found{m, filepath.Base(proc)})
		}
	}
	return found, nil
}

// ofProcess reads the mount table that a process sees; proc is its folder in /proc.
func ofProcess(proc string, is func(*mountinfo.Info) bool) ([]*mountinfo.Info, error) {
	f, err := os.Open(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) { return !is(m), false })
}
