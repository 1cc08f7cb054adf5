// Package mountns manages the mount namespace that docker gives a managed plugin.
package mountns

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrStays: a copy of a mount could not be detached.
var ErrStays = errors.New("mount was not removed")

// pluginRoot is the directory that docker makes a managed plugin's root file system,
// from the root of the file system it lies on; the first group is docker's data-root
// (moby, plugin/manager.go).
var pluginRoot = regexp.MustCompile(`^(/.*)/plugins/[0-9a-f]{64}/rootfs$|^()/plugins/[0-9a-f]{64}/rootfs$`)

// LetGo detaches the copies of docker's own mounts that a managed plugin has below dir,
// a directory that docker bound into it. In any other process LetGo does nothing.
//
// docker binds a managed plugin's directories recursively, with all mounts below them at
// that moment. If docker's data-root lies below dir, these include root file systems and
// shared memory of containers that were running when the plugin was restarted. Nothing
// unmounts these copies: runc makes the mount that holds the plugin's root file system
// private (libcontainer, rootfsParentMountPrivate), so no unmount of the host propagates
// to them. Until the plugin ends, such a copy keeps the images of a container open and
// blocks the removal of its mount point (EBUSY).
func LetGo(dir string) error {
	dir = filepath.Clean(dir)
	// A hidden mount can only be reached after the mount above is detached; each round
	// detaches at least one.
	for {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return fmt.Errorf("list the mounts: %w", err)
		}
		copies := dockersMounts(mounts, dir)
		if len(copies) == 0 {
			return nil
		}
		// Independent of the runtime's propagation: from here on no change below dir reaches
		// the host.
		if err := unix.Mount("", dir, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts below %s private to the plugin: %w", dir, err)
		}
		gone := 0
		for _, at := range copies {
			switch err := detach(at); {
			case err == nil:
				gone++
			case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT): // hidden, or gone with one above it
			default:
				return fmt.Errorf("detach the copy of %s: %w", at, err)
			}
		}
		if gone == 0 {
			return fmt.Errorf("%w: %s is not reachable in the plugin's mount namespace; restart the plugin", ErrStays, copies[0])
		}
	}
}

// dockersMounts are the mount points below dir inside the data-root of this plugin's
// docker, parents before children.
func dockersMounts(mounts []*mountinfo.Info, dir string) []string {
	roots := dataRoots(mounts, dir)
	var found []string
	for _, m := range mounts {
		if m.Mountpoint != dir && slices.ContainsFunc(roots, func(root string) bool { return within(m.Mountpoint, root) }) {
			found = append(found, m.Mountpoint)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	return found
}

// dataRoots is where docker's data-root is seen at or below dir.
func dataRoots(mounts []*mountinfo.Info, dir string) []string {
	var roots []string
	for _, root := range mounts {
		parts := pluginRoot.FindStringSubmatch(root.Root)
		if root.Mountpoint != "/" || parts == nil {
			continue
		}
		dataRoot := "/" + strings.TrimPrefix(parts[1]+parts[2], "/")
		for _, m := range mounts {
			// A mount of the same file system, of a directory that has the data-root in it.
			if m.Major == root.Major && m.Minor == root.Minor && within(m.Mountpoint, dir) && within(dataRoot, m.Root) {
				roots = append(roots, filepath.Join(m.Mountpoint, strings.TrimPrefix(dataRoot, m.Root)))
			}
		}
	}
	return roots
}

// within says whether a clean absolute path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// detach removes a mount and its submounts from this namespace only: it makes them
// private first, or the unmount would propagate.
func detach(at string) error {
	if err := unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}
