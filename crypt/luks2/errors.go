package luks2

import (
	"errors"
	"fmt"
	"strings"
)

// The errors of this package, each wrapped with the name of the operation; test with
// errors.Is.
var (
	// ErrNotLUKS2: no header copy exists, not even a damaged one. The file is empty or has
	// another format.
	ErrNotLUKS2 = errors.New("not a LUKS2 image")

	// ErrDamaged: the file is or was a LUKS2 image, but no header copy is valid, or a key
	// slot lies beyond the end of the file. Nothing was written; restore the header from a
	// backup.
	ErrDamaged = errors.New("LUKS2 header is damaged")

	// ErrNoKey: the passphrase opens none of the key slots.
	ErrNoKey = errors.New("no key slot matches this key")

	// ErrEmptyKey: a new key slot must not have an empty passphrase, which is the result
	// of a key source that failed silently.
	ErrEmptyKey = errors.New("passphrase is empty")

	// ErrWrongVolumeKey: the volume key handed to AddSlot is not this image's.
	ErrWrongVolumeKey = errors.New("volume key does not belong to this image")

	// ErrNoRoom: no free slot number, no gap in the key slots area, or no room
	// in the JSON area. Remove a slot or a token first.
	ErrNoRoom = errors.New("no space left in the LUKS2 header")

	// ErrNoSlot: there is no key slot (or token) of that number.
	ErrNoSlot = errors.New("no such key slot or token")

	// ErrLastSlot: removing the last key slot would lose the data. Erase does
	// that on purpose.
	ErrLastSlot = errors.New("refusing to remove the last key slot")

	// ErrStale: the header on disk changed after it was read. Read the header again, then
	// repeat the change.
	ErrStale = errors.New("LUKS2 header changed after it was read")

	// ErrTooCostly: a key slot needs more memory or time than the limits in kdf.go; such a
	// header is hostile or was made for a far larger machine.
	ErrTooCostly = errors.New("key derivation cost exceeds the limit")

	// ErrForbidden: the header has a cipher, size or offset that no layervault image has.
	// Every such error is a *HeaderError.
	ErrForbidden = errors.New("LUKS2 header has a forbidden value")

	// ErrNotAuthentic: the header was not written with the image's key: it was changed, or
	// belongs to another image. Every such error is a *HeaderError. "layervault image
	// adopt" accepts a change made by hand.
	ErrNotAuthentic = errors.New("LUKS2 header was changed without the image's key")

	// ErrUnsupported matches every *UnsupportedError.
	ErrUnsupported = errors.New("not supported")
)

// UnsupportedError names the part of a valid header that this package does not support.
// The cryptsetup command may.
type UnsupportedError struct {
	What string // for instance `mandatory requirement "online-reencrypt-v2"`
}

func (e *UnsupportedError) Error() string { return e.What + " is not supported" }

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// HeaderError names the header fields that make an image unusable.
type HeaderError struct {
	UUID   string
	Fields []Change // at least one
	Reason error    // ErrForbidden or ErrNotAuthentic
}

// Change is one field of a header, by its place in the JSON, such as
// segments.0.encryption, or uuid, metadata_size, kind, id.
type Change struct {
	Field string `json:"field"`
	// What is wrong with it: "changed", "added", "missing", or what it must be.
	What string `json:"what"`
	Now  string `json:"now,omitempty"` // the value that it has, as JSON; "" for one that is missing
}

// String is the change in words.
func (c Change) String() string {
	now := c.Now
	if len(now) > maxShown {
		now = now[:maxShown] + "..."
	}
	if now == "" {
		return c.Field + " " + c.What
	}
	return fmt.Sprintf("%s %s (now %s)", c.Field, c.What, now)
}

// maxShown bounds the length of a value in an error, in bytes; mostFields, the number of
// fields named.
const (
	maxShown   = 80
	mostFields = 4
)

// Field is the first of the fields.
func (e *HeaderError) Field() string { return e.Fields[0].Field }

func (e *HeaderError) Error() string {
	words := make([]string, 0, mostFields)
	for _, c := range e.Fields[:min(len(e.Fields), mostFields)] {
		words = append(words, c.String())
	}
	text := fmt.Sprintf("%v: %s", e.Reason, strings.Join(words, ", "))
	if more := len(e.Fields) - mostFields; more > 0 {
		text += fmt.Sprintf(" and %d more fields", more)
	}
	return text
}

// Unwrap gives ErrForbidden or ErrNotAuthentic.
func (e *HeaderError) Unwrap() error { return e.Reason }
