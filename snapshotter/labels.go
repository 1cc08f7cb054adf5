package snapshotter

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/sys/user"
)

const (
	// labelMaxSize asks for the size of a writable layer, in bytes or with a unit. containerd
	// 2.4 has a name for it (snapshots.LabelSnapshotMaxSize).
	labelMaxSize = "containerd.io/snapshot/max-size"
	// minSize is the smallest writable layer, as in the graph driver: LUKS2's header, ext4's
	// journal and tables leave hardly anything of less.
	minSize = 16 << 20
	// maxSize bounds what a label may ask for: containerd passes labels of images on, and a
	// larger file system costs space before anything is written to it.
	maxSize = 16 << 40
)

// sizeLimit is the size that labels ask for, 0 for none. Unknown labels mean nothing here.
func sizeLimit(labels map[string]string) (int64, error) {
	text, ok := labels[labelMaxSize]
	if !ok {
		return 0, nil
	}
	size, err := units.RAMInBytes(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("%w: label %s=%q must be a number of bytes, or one with a unit: %w", ErrBadSize, labelMaxSize, text, err)
	}
	if size < minSize || size > maxSize {
		return 0, fmt.Errorf("%w: label %s=%q: it must be from %s to %s", ErrBadSize, labelMaxSize, text, units.BytesSize(minSize), units.BytesSize(maxSize))
	}
	return size, nil
}

// labelledOwner is the user and group that 0 is mapped to by labels, if there are any.
func labelledOwner(labels map[string]string) (_ user.IdentityMapping, ok bool, err error) {
	uids, hasUIDs := labels[snapshots.LabelSnapshotUIDMapping]
	gids, hasGIDs := labels[snapshots.LabelSnapshotGIDMapping]
	if !hasUIDs && !hasGIDs {
		return user.IdentityMapping{}, false, nil
	}
	uid, err := rootOf(uids)
	if err != nil {
		return user.IdentityMapping{}, false, err
	}
	gid, err := rootOf(gids)
	if err != nil {
		return user.IdentityMapping{}, false, err
	}
	return owner(uid, gid), true, nil
}

// rootOf is what 0 is mapped to in "container:host:size,...".
func rootOf(mapping string) (int, error) {
	for one := range strings.SplitSeq(mapping, ",") {
		var n [3]int64
		parts := strings.Split(one, ":")
		if len(parts) != len(n) {
			return 0, fmt.Errorf("id mapping %q must be container:host:size: %w", mapping, errdefs.ErrInvalidArgument)
		}
		for i, part := range parts {
			id, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				return 0, fmt.Errorf("id mapping %q: %w: %w", mapping, err, errdefs.ErrInvalidArgument)
			}
			n[i] = int64(id)
		}
		if n[0] == 0 && n[2] > 0 {
			return int(n[1]), nil
		}
	}
	return 0, fmt.Errorf("id mapping %q has no root: %w", mapping, errdefs.ErrInvalidArgument)
}

// owner is a mapping that gives root's files to a user and group.
func owner(uid, gid int) user.IdentityMapping {
	if uid == 0 && gid == 0 {
		return user.IdentityMapping{}
	}
	return user.IdentityMapping{
		UIDMaps: []user.IDMap{{ID: 0, ParentID: int64(uid), Count: 1}},
		GIDMaps: []user.IDMap{{ID: 0, ParentID: int64(gid), Count: 1}},
	}
}

// ownerOf is the owner of a directory, as a mapping.
func ownerOf(dir string) (user.IdentityMapping, error) {
	fi, err := os.Lstat(dir)
	if err != nil {
		return user.IdentityMapping{}, fmt.Errorf("owner of the parent's root: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return user.IdentityMapping{}, fmt.Errorf("owner of the parent's root: %s has no inode", dir)
	}
	return owner(int(st.Uid), int(st.Gid)), nil
}
