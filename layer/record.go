package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"layervault/internal/authentic"
	"layervault/internal/durable"
)

// Kind says what a layer's image holds.
type Kind string

// The kinds. A fresh layer has no image yet: it becomes writable when somebody
// wants to write, or sealed when a tar is imported. A sealed layer never
// changes again.
const (
	Fresh    Kind = "fresh"
	Writable Kind = "writable"
	Sealed   Kind = "sealed"
)

// recordVersion is the version of layer.json this code writes. A reader refuses
// a higher one: it may mean something this code would destroy. Version 1 was not
// authenticated; see Store.authenticate for when it is still believed.
const (
	recordVersion    = 2
	oldRecordVersion = 1
)

// recordKind is the kind of a layer's record in its authentication.
const recordKind = "layer"

// recordFormat is what is read of layer.json: a record is about 500 bytes, so
// anything near a page is not ours.
var recordFormat = durable.Format{Oldest: oldRecordVersion, Newest: recordVersion, MaxSize: 4096}

// Record is what layer.json says. It holds only what cannot be derived.
type Record struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Parent  string `json:"parent,omitempty"`
	Kind    Kind   `json:"kind"`
	// ReadWrite: made as somebody's writable layer, not as a step of an image.
	ReadWrite bool `json:"read_write,omitempty"`
	// SizeLimit is the size in bytes of a writable image's file system; 0 for the
	// store's default at the time the image is made.
	SizeLimit int64 `json:"size_limit,omitempty"`
	// Size is a sealed layer's content in bytes, as crypt.ImportResult counts it.
	Size int64 `json:"size,omitempty"`
	// UUID is the LUKS2 UUID of the image: an older image of the layer is not taken for it.
	// Version 1 has none of writable images.
	UUID string `json:"uuid,omitempty"`
	// ParentUUID is the UUID of the parent's image when this layer was made, if that image
	// was one that is never replaced: an older record of the parent is not taken for it.
	ParentUUID string `json:"parent_uuid,omitempty"`
	// Owner is the process that made a fresh layer; see Store.Import.
	Owner   string    `json:"owner,omitempty"`
	Created time.Time `json:"created"`
	// MAC authenticates all of the above; see package authentic.
	MAC string `json:"mac,omitempty"`
}

// seal gives a record, in the present version, its authentication.
func (r Record) seal(keys authentic.Keys) (Record, error) {
	r.Version = recordVersion
	err := authentic.Seal(keys, recordKind, &r, &r.MAC)
	return r, err
}

// authentic is authentic.ErrForged for a record that was not written with the tier's key.
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

// decodeRecord parses layer.json of the layer id and checks that it makes sense.
// Fields it does not know are an error: within one version there are none. Whether the
// record is to be believed is Store.authenticate's question.
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
	if r.Version != recordVersion && r.Version != oldRecordVersion {
		return fmt.Errorf("unknown format version %d", r.Version)
	}
	if r.ID != id {
		return fmt.Errorf("it belongs to layer %q", r.ID)
	}
	if err := ValidateID(r.ID); err != nil {
		return err
	}
	if r.Parent != "" {
		if err := ValidateID(r.Parent); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
		if r.Parent == r.ID {
			return errors.New("it is its own parent")
		}
	}
	if r.SizeLimit < 0 || r.Size < 0 {
		return errors.New("negative size")
	}
	if err := r.checkVersion(); err != nil {
		return err
	}
	return r.checkKind()
}

// checkVersion looks at what only one version has.
func (r Record) checkVersion() error {
	switch {
	case r.Version == oldRecordVersion && (r.MAC != "" || r.ParentUUID != "" || r.Kind == Writable && r.UUID != ""):
		return errors.New("fields of format version 2 in one of version 1")
	case r.Version == recordVersion && !authentic.IsCode(r.MAC):
		return errors.New("no authentication")
	case r.ParentUUID != "" && r.Parent == "":
		return errors.New("the UUID of a parent's image without a parent")
	}
	return nil
}

func (r Record) checkKind() error {
	switch r.Kind {
	case Fresh:
		if r.Size != 0 || r.UUID != "" {
			return errors.New("a fresh layer with the size or UUID of an image")
		}
	case Writable:
		if r.Size != 0 || r.UUID == "" && r.Version != oldRecordVersion {
			return errors.New("writable with the size of a sealed layer, or without a UUID")
		}
	case Sealed:
		if r.UUID == "" {
			return errors.New("sealed without a UUID")
		}
	default:
		return fmt.Errorf("unknown kind %q", r.Kind)
	}
	return nil
}
