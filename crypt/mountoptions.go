package crypt

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOptions are the options of a mount, as mount(2) wants them.
type MountOptions struct {
	Flags uintptr
	Data  string // what the file system reads, comma separated
}

// mountFlags are the options of mount(8) that are flags of mount(2); see the table
// "FILESYSTEM-INDEPENDENT MOUNT OPTIONS" of its manual. "ro" is not included: one
// device cannot be mounted both ways, so a read-only use is requested per use (docker's
// :ro).
var mountFlags = map[string]uintptr{
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
	"nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID,
	"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
}

// mountDefaults are words of mount(8) that change nothing, or only what mount(8) itself
// would do.
var mountDefaults = []string{"defaults", "rw", "suid", "dev", "exec", "async", "auto", "noauto", "nofail", "atime", "loop"}

// mountData are the accepted ext4 options, by the word before "=". Options that name
// files or devices, or that make the kernel panic, are excluded. See
// Documentation/admin-guide/ext4.rst of Linux.
var mountData = []string{
	"acl", "auto_da_alloc", "barrier", "block_validity", "commit", "data", "delalloc", "discard", "errors", "grpid",
	"inode_readahead_blks", "max_batch_time", "min_batch_time", "noacl", "noauto_da_alloc", "nobarrier", "nodelalloc",
	"nodiscard", "nogrpid", "nouser_xattr", "stripe", "user_xattr",
}

// ParseMountOptions parses the argument of mount(8)'s -o. An unknown option is
// ErrBadParams, with a list of the known ones.
func ParseMountOptions(text string) (MountOptions, error) {
	var m MountOptions
	var data []string
	for word := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		switch flag, ok := mountFlags[word]; {
		case word == "" || slices.Contains(mountDefaults, word):
		case ok:
			m.Flags |= flag
		case word == "errors=panic":
			return MountOptions{}, fmt.Errorf("%w: mount option %q would panic the host on an error", ErrBadParams, word)
		case slices.Contains(mountData, name) && !strings.ContainsAny(value, "/ \\\"\x00"):
			data = append(data, word)
		default:
			return MountOptions{}, fmt.Errorf("%w: unknown mount option %q; known options: %s", ErrBadParams, word, strings.Join(knownMountOptions(), ", "))
		}
	}
	m.Data = strings.Join(data, ",")
	return m, nil
}

func knownMountOptions() []string {
	known := slices.Concat(mountDefaults, mountData)
	for word := range mountFlags {
		known = append(known, word)
	}
	slices.Sort(known)
	return known
}
