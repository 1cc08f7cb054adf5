package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrTrailing: data follows the JSON value.
	ErrTrailing = errors.New("trailing data after the JSON value")
	// ErrTooLong: the file is longer than any file of its format.
	ErrTooLong = errors.New("file too long")
)

// Format is a format of JSON files: an object whose member "version" is the
// format's version.
type Format struct {
	// Oldest and Newest are the versions that this program reads. A higher one is
	// refused: its meaning is unknown, and a rewrite would destroy it.
	Oldest, Newest int
	// MaxSize bounds what is read of a file, in bytes.
	MaxSize int
}

// VersionError is a format version that this program does not read.
type VersionError struct {
	Version, Oldest, Newest int
}

func (e *VersionError) Error() string {
	if e.Version > e.Newest {
		return fmt.Sprintf("format version %d, this program knows up to %d: use a newer one", e.Version, e.Newest)
	}
	return fmt.Sprintf("unknown format version %d", e.Version)
}

// Decode reads data, the content of the file called what in errors. Refused are
// more than MaxSize bytes (ErrTooLong), an unknown version (*VersionError), an
// unknown field, and trailing data (ErrTrailing).
func (f Format) Decode(what string, data []byte, into any) error {
	if err := f.decode(data, into); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Read reads a file for Decode. A file longer than MaxSize is not read to its end:
// Decode refuses what is returned of it. Errors are those of r alone, so that a
// failing disk is not taken for a damaged file.
func (f Format) Read(r io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, int64(f.MaxSize)+1))
}

func (f Format) decode(data []byte, into any) error {
	if len(data) > f.MaxSize {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLong, f.MaxSize)
	}
	// The version comes first: a newer format may have fields unknown here.
	var head struct {
		Version int `json:"version"`
	}
	if err := decodeFirst(json.NewDecoder(bytes.NewReader(data)), &head); err != nil {
		return err
	}
	if head.Version < f.Oldest || head.Version > f.Newest {
		return &VersionError{Version: head.Version, Oldest: f.Oldest, Newest: f.Newest}
	}
	return Decode(data, into)
}

// Decode reads one JSON value. A field that into lacks is an error, and so is
// anything after the value (ErrTrailing).
func Decode(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := decodeFirst(dec, into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return nil
}

// decodeFirst reads the first value. A file without one is cut off, not at its end.
func decodeFirst(dec *json.Decoder, into any) error {
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
