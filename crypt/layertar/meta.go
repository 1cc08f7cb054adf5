package layertar

import (
	"archive/tar"
	"fmt"
	"math"
	"strings"
	"time"

	"layervault/crypt/fswriter"
)

// meta is what an entry says of owner, mode, times and extended attributes.
func (l *layer) meta(h *tar.Header) (fswriter.Meta, error) {
	uid, gid, err := l.owner(h.Uid, h.Gid)
	if err != nil {
		return fswriter.Meta{}, err
	}
	access := h.AccessTime
	if access.Before(h.ModTime) {
		access = h.ModTime
	}
	attrs, err := l.xattrs(h)
	if err != nil {
		return fswriter.Meta{}, err
	}
	bound := bound
	if l.literal {
		bound = func(t time.Time) time.Time { return t }
	}
	return fswriter.Meta{
		Mode:   uint16(h.Mode & 0o7777),
		UID:    uid,
		GID:    gid,
		Atime:  bound(access),
		Mtime:  bound(h.ModTime),
		Ctime:  l.now,
		Xattrs: attrs,
	}, nil
}

// owner maps IDs of the container to IDs of the host.
func (l *layer) owner(uid, gid int) (uint32, uint32, error) {
	hostUID, hostGID, err := l.ids.ToHost(uid, gid)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrUnmappedID, err)
	}
	for _, id := range []int{hostUID, hostGID} {
		// The highest value means "unchanged" to the kernel and can own nothing.
		if int64(id) < 0 || int64(id) >= math.MaxUint32 {
			return 0, 0, fmt.Errorf("%w: %d is not a valid ID", ErrUnmappedID, id)
		}
	}
	return uint32(hostUID), uint32(hostGID), nil
}

// lastTime is where docker's time ends: what nanoseconds of 63 bits reach, in 2262.
var lastTime = time.Unix(0, math.MaxInt64)

// bound does what docker does: times before 1970 and after 2262 become 1970.
func bound(t time.Time) time.Time {
	if t.Unix() < 0 || t.After(lastTime) {
		return time.Unix(0, 0)
	}
	return t
}

// xattrs are those of the entry that an image may bring, or all of a literal tar. Names that no file
// system has a namespace for are left out, as by tar without its --xattrs-include.
func (l *layer) xattrs(h *tar.Header) (map[string][]byte, error) {
	var found map[string][]byte
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, overlayPrefix) && !l.literal || !fswriter.HasXattrNamespace(name) {
			continue
		}
		if found == nil {
			found = map[string][]byte{}
		}
		if len(found) == fswriter.MaxXattrs {
			return nil, &LimitError{What: "extended attributes of one file", Limit: fswriter.MaxXattrs}
		}
		found[name] = []byte(value)
	}
	return found, nil
}
