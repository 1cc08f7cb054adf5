// Package mountns tends the mount namespace that docker gives a managed plugin.
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

// ErrStays says that a copy of a mount could not be let go of.
var ErrStays = errors.New("mount stays")

// pluginRoot is the directory that docker makes a managed plugin's root file system,
// from the root of the file system it lies on; the first group is docker's data-root
// (moby, plugin/manager.go).
var pluginRoot = regexp.MustCompile(`^(/.*)/plugins/[0-9a-f]{64}/rootfs$|^()/plugins/[0-9a-f]{64}/rootfs$`)

// LetGo detaches the copies of docker's own mounts that a managed plugin has below dir,
// a directory that docker bound into it. Any other process it leaves alone.
//
// docker binds a managed plugin's directories with all that is mounted below them at
// that moment. Where docker's data-root lies below dir, these are the root file systems
// and shared memory of containers that ran when the plugin was started anew, copies that
// nobody unmounts: runc makes the mount that holds the plugin's root file system private
// (libcontainer, rootfsParentMountPrivate), so no unmount of the host reaches what was
// copied from it. Such a copy keeps the images of a container open, and its mount point
// from being removed (EBUSY), until the plugin ends.
func LetGo(dir string) error {
	dir = filepath.Clean(dir)
	// What a mount hides can only be reached once that is detached; and each round
	// detaches one at least.
	for {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return fmt.Errorf("list the mounts: %w", err)
		}
		copies := dockersMounts(mounts, dir)
		if len(copies) == 0 {
			return nil
		}
		// Whatever the runtime left shared: from here on nothing below dir reaches the host.
		if err := unix.Mount("", dir, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("keep what happens below %s in the plugin's mount namespace: %w", dir, err)
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
			return fmt.Errorf("%w: %s cannot be reached in the plugin's mount namespace; start the plugin again", ErrStays, copies[0])
		}
	}
}

// dockersMounts are the mount points below dir that lie in the data-root of the docker
// whose plugin this is, those higher up first.
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

// detach takes a mount, with all that is mounted below it, out of this namespace alone:
// private first, or the others would lose theirs.
func detach(at string) error {
	if err := unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}
