package layer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
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
// a higher one: it may mean something this code would destroy.
const recordVersion = 1

// maxRecordSize bounds what is read: a record is about 400 bytes, so anything
// near a page is not ours.
const maxRecordSize = 4096

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
	// UUID is the LUKS2 UUID of a sealed image.
	UUID string `json:"uuid,omitempty"`
	// Owner is the process that made a fresh layer; see Store.Import.
	Owner   string    `json:"owner,omitempty"`
	Created time.Time `json:"created"`
}

func (r Record) encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// decodeRecord parses layer.json of the layer id and checks that it makes sense.
// Fields it does not know are an error: within one version there are none.
func decodeRecord(id string, data []byte) (Record, error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("%w: layer %s: %w", ErrDamaged, id, err)
	}
	if head.Version > recordVersion {
		return Record{}, fmt.Errorf("%w: layer %s has format version %d, this program knows up to %d: use a newer one",
			ErrDamaged, id, head.Version, recordVersion)
	}
	var r Record
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("%w: layer %s: %w", ErrDamaged, id, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Record{}, fmt.Errorf("%w: layer %s: something follows the record", ErrDamaged, id)
	}
	if err := r.check(id); err != nil {
		return Record{}, fmt.Errorf("%w: layer %s: %w", ErrDamaged, id, err)
	}
	return r, nil
}

func (r Record) check(id string) error {
	if r.Version != recordVersion {
		return fmt.Errorf("format version %d", r.Version)
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
	switch r.Kind {
	case Fresh, Writable:
		if r.Size != 0 || r.UUID != "" {
			return fmt.Errorf("kind %q with the size or UUID of a sealed layer", r.Kind)
		}
	case Sealed:
		if r.UUID == "" {
			return errors.New("sealed without a UUID")
		}
	default:
		return fmt.Errorf("unknown kind %q", r.Kind)
	}
	if r.SizeLimit < 0 || r.Size < 0 {
		return errors.New("negative size")
	}
	return nil
}
