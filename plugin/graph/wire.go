package graph

import (
	"errors"
	"strings"

	"github.com/moby/go-archive"
	"github.com/moby/sys/user"

	"layervault/driver"
)

// maxRequest bounds a JSON request. The largest real one is Init with ID maps:
// the kernel takes at most 340 lines of them, some 80 bytes each, twice.
const maxRequest = 1 << 20

// errQuery is a fault of a request, beside those of package socket: they are answered
// with a status other than 200.
var errQuery = errors.New("query must be id=ID&parent=PARENT")

// request is the body of every call but Init and ApplyDiff (moby
// graphDriverRequest). Unknown fields are let pass: a later engine may add some.
type request struct {
	ID         string
	Parent     string
	MountLabel string
	StorageOpt map[string]string
}

func (r request) createOpts() *driver.CreateOpts {
	return &driver.CreateOpts{MountLabel: r.MountLabel, StorageOpt: r.StorageOpt}
}

// initRequest is the body of Init (moby graphDriverInitRequest). Both maps may be
// null.
type initRequest struct {
	Home    string
	Opts    []string
	UIDMaps []idMap
	GIDMaps []idMap
}

// idMap has the JSON keys that moby's idtools.IDMap really sends.
type idMap struct {
	ContainerID int64 `json:"container_id"`
	HostID      int64 `json:"host_id"`
	Size        int64 `json:"size"`
}

func userMaps(maps []idMap) []user.IDMap {
	if len(maps) == 0 {
		return nil
	}
	out := make([]user.IDMap, 0, len(maps))
	for _, m := range maps {
		out = append(out, user.IDMap{ID: m.ContainerID, ParentID: m.HostID, Count: m.Size})
	}
	return out
}

// response is the answer to every call but Diff (moby graphDriverResponse).
type response struct {
	Err          string            `json:",omitempty"`
	Dir          string            `json:",omitempty"`
	Exists       bool              `json:",omitempty"`
	Status       [][2]string       `json:",omitempty"`
	Changes      []archive.Change  `json:",omitempty"`
	Size         int64             `json:",omitempty"`
	Metadata     map[string]string `json:",omitempty"`
	Capabilities *capabilities     `json:",omitempty"`
}

// capabilities tells dockerd how far it may rely on Diff.
type capabilities struct {
	// ReproducesExactDiffs would make dockerd take Diff's tar for push and save
	// in place of the tar-split record it keeps. Ours holds the same files with
	// other header bytes, so image digests would change: it stays false.
	ReproducesExactDiffs bool
}

// applyTarget takes ApplyDiff's query apart by hand: dockerd does not escape it,
// so net/url would change an id that holds '+' or '%'.
func applyTarget(rawQuery string) (id, parent string, err error) {
	rest, ok := strings.CutPrefix(rawQuery, "id=")
	if !ok {
		return "", "", errQuery
	}
	id, parent, ok = strings.Cut(rest, "&parent=")
	if !ok || id == "" {
		return "", "", errQuery
	}
	return id, parent, nil
}
