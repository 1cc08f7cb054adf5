package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"layervault/internal/authentic"
	"layervault/internal/durable"
)

// Kind says what a layer's image holds.
type Kind string

// The kinds. A fresh layer has no image yet: it becomes writable at the first write
// access, or sealed when a tar is imported. A sealed layer never changes again.
const (
	Fresh    Kind = "fresh"
	Writable Kind = "writable"
	Sealed   Kind = "sealed"
)

// State says how far a layer is whose front door prepares and commits, as containerd's
// snapshots are. Other layers have none.
type State string

// The states. An active layer is being written. The content of a committed one is final: it
// may be a parent. A view has no content of its own.
const (
	Active    State = "active"
	Committed State = "committed"
	Viewed    State = "view"
)

// The versions of layer.json that this code writes: resealedVersion while a layer's image was
// replaced and not all that stands on it knows, namedVersion for a record with a state,
// recordVersion for any other, which older programs read too. A reader rejects a higher
// version: its fields may be lost by a rewrite. Version 1 was not authenticated; see
// Store.authenticate for when it is still accepted.
const (
	resealedVersion  = 4
	namedVersion     = 3
	recordVersion    = 2
	oldRecordVersion = 1
)

// maxName bounds the name of a layer, in bytes: containerd's are some 150.
const maxName = 512

// maxMark bounds the marks of a record (UUIDs, and the process that made a layer), in bytes: a
// UUID's text has 36. With it, a record whose fields are all as long as they may be is shorter
// than recordFormat's MaxSize, also where JSON escapes each byte of the name.
const maxMark = 64

// recordKind is the kind of a layer's record in its authentication.
const recordKind = "layer"

// recordFormat is what is read of layer.json: a record is about 500 bytes, so
// anything near a page is not ours.
var recordFormat = durable.Format{Oldest: oldRecordVersion, Newest: resealedVersion, MaxSize: 4096}

// Record is what layer.json says. It holds only what cannot be derived.
type Record struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Parent  string `json:"parent,omitempty"`
	Kind    Kind   `json:"kind"`
	// ReadWrite: made as a container's writable layer, not as a step of an image.
	ReadWrite bool `json:"read_write,omitempty"`
	// SizeLimit is the size in bytes of a writable image's file system; 0 for the
	// store's default at the time the image is made.
	SizeLimit int64 `json:"size_limit,omitempty"`
	// Size is a sealed layer's content in bytes, as crypt.ImportResult counts it.
	Size int64 `json:"size,omitempty"`
	// UUID is the LUKS2 UUID of the image, so that an older image of the layer is rejected.
	// Version 1 has none for writable images.
	UUID string `json:"uuid,omitempty"`
	// ParentUUID is the UUID of the parent's image when this layer was made, if that image
	// is never replaced, so that an older record of the parent is rejected.
	ParentUUID string `json:"parent_uuid,omitempty"`
	// Replaces is the UUID of the image that was sealed anew as the present one, until no record
	// of a child names it any more; see Store.Reseal.
	Replaces string `json:"replaces,omitempty"`
	// Owner is the process that made a fresh layer; see Store.Import.
	Owner string `json:"owner,omitempty"`
	// Name is what the front door of a layer with a state knows it by, and State that state.
	// A name belongs to one layer at most, which the front door sees to.
	Name    string    `json:"name,omitempty"`
	State   State     `json:"state,omitempty"`
	Created time.Time `json:"created"`
	// MAC authenticates all of the above; see package authentic.
	MAC string `json:"mac,omitempty"`
}

// seal sets the current version and the MAC of a record.
func (r Record) seal(keys authentic.Keys) (Record, error) {
	switch {
	case r.Replaces != "":
		r.Version = resealedVersion
	case r.State != "":
		r.Version = namedVersion
	default:
		r.Version = recordVersion
	}
	err := authentic.Seal(keys, recordKind, &r, &r.MAC)
	return r, err
}

// authentic returns authentic.ErrForged for a record that was not written with the tier's
// key.
func (r Record) authentic(keys authentic.Keys) error {
	return authentic.Verify(keys, recordKind, &r, &r.MAC)
}

func (r Record) encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// decodeRecord parses layer.json of the layer id and validates it. Unknown fields are
// an error: within one version there are none. Authentication is done by
// Store.authenticate.
func decodeRecord(id string, data []byte) (Record, error) {
	var r Record
	if err := recordFormat.Decode("layer "+id, data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := r.check(id); err != nil {
		return Record{}, fmt.Errorf("%w: layer %s: %w", ErrDamaged, id, err)
	}
	return r, nil
}

func (r Record) check(id string) error {
	if r.ID != id {
		return fmt.Errorf("record belongs to layer %q", r.ID)
	}
	if err := ValidateID(r.ID); err != nil {
		return err
	}
	if r.Parent != "" {
		if err := ValidateID(r.Parent); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		if r.Parent == r.ID {
			return errors.New("layer is its own parent")
		}
	}
	if r.SizeLimit < 0 || r.Size < 0 {
		return errors.New("negative size")
	}
	for _, mark := range []string{r.UUID, r.ParentUUID, r.Replaces, r.Owner} {
		if mark != "" && (len(mark) > maxMark || ValidateID(mark) != nil) {
			return fmt.Errorf("no UUID, and no process: %.*q", maxMark, mark)
		}
	}
	if err := r.checkVersion(); err != nil {
		return err
	}
	if err := r.checkState(); err != nil {
		return err
	}
	return r.checkKind()
}

func (r Record) checkState() error {
	switch r.State {
	case "":
		if r.Name != "" {
			return errors.New("name without a state")
		}
		return nil
	case Active, Committed:
	case Viewed:
		if r.Kind != Fresh {
			return errors.New("view has an image")
		}
	default:
		return fmt.Errorf("unknown state %q", r.State)
	}
	return checkName(r.Name)
}

// checkName is ErrBadName for a name that a record could not give back as it was.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%w: %d bytes, must be 1 to %d", ErrBadName, len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: %q is not plain text", ErrBadName, name)
	}
	return nil
}

// checkVersion checks the fields that depend on the version.
func (r Record) checkVersion() error {
	switch {
	case r.Version == oldRecordVersion && (r.MAC != "" || r.ParentUUID != "" || r.Kind == Writable && r.UUID != ""):
		return errors.New("format version 1 record has fields of version 2")
	case r.Version != oldRecordVersion && !authentic.IsCode(r.MAC):
		return errors.New("MAC is missing")
	case (r.Version == resealedVersion) != (r.Replaces != ""):
		return errors.New("replaced image does not fit the format version")
	case r.Version != resealedVersion && (r.Version == namedVersion) != (r.State != ""):
		return errors.New("state does not fit the format version")
	case r.ParentUUID != "" && r.Parent == "":
		return errors.New("parent image UUID without a parent")
	}
	return nil
}

func (r Record) checkKind() error {
	if r.Replaces != "" && (r.Kind != Sealed || r.Replaces == r.UUID) {
		return errors.New("replaced image of a layer that was not sealed anew")
	}
	switch r.Kind {
	case Fresh:
		if r.Size != 0 || r.UUID != "" {
			return errors.New("fresh layer has an image size or UUID")
		}
	case Writable:
		if r.Size != 0 || r.UUID == "" && r.Version != oldRecordVersion {
			return errors.New("writable layer has a sealed size, or no UUID")
		}
	case Sealed:
		if r.UUID == "" {
			return errors.New("sealed layer has no UUID")
		}
	default:
		return fmt.Errorf("unknown kind %q", r.Kind)
	}
	return nil
}
