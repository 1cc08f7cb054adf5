package luks2

import (
	"errors"
	"fmt"
	"strings"
)

// The errors of this package. Each is wrapped with what was being done; test
// with errors.Is.
var (
	// ErrNotLUKS2: neither header copy is there, not even a broken one. The
	// file is something else, or empty.
	ErrNotLUKS2 = errors.New("not a LUKS2 image")

	// ErrDamaged: it is (or was) a LUKS2 image, but no header copy is valid, or
	// a key slot lies beyond the end of the file. Nothing was written; restore
	// the header from a backup.
	ErrDamaged = errors.New("LUKS2 header is damaged")

	// ErrNoKey: the passphrase opens none of the key slots.
	ErrNoKey = errors.New("no key slot opens with this key")

	// ErrEmptyKey: a new key slot must not open with an empty passphrase, which is
	// what a key source that silently failed would give.
	ErrEmptyKey = errors.New("passphrase is empty")

	// ErrWrongVolumeKey: the volume key handed to AddSlot is not this image's.
	ErrWrongVolumeKey = errors.New("volume key does not belong to this image")

	// ErrNoRoom: no free slot number, no gap in the key slots area, or no room
	// in the JSON area. Remove a slot or a token first.
	ErrNoRoom = errors.New("no room left in the LUKS2 header")

	// ErrNoSlot: there is no key slot (or token) of that number.
	ErrNoSlot = errors.New("no such key slot or token")

	// ErrLastSlot: removing the last key slot would lose the data. Erase does
	// that on purpose.
	ErrLastSlot = errors.New("refusing to remove the last key slot")

	// ErrStale: the header on disk is not the one that was read: someone else
	// changed it. Read it again, then repeat the change.
	ErrStale = errors.New("LUKS2 header was changed since it was read")

	// ErrTooCostly: a key slot asks for more memory or time than the limits in
	// kdf.go; such a header is hostile or was made for a far larger machine.
	ErrTooCostly = errors.New("key derivation is too costly")

	// ErrForbidden: the header asks for a cipher, a size or a place that no image of ours
	// has. Every such error is a *HeaderError.
	ErrForbidden = errors.New("LUKS2 header has a value that no image may have")

	// ErrNotAuthentic: the header is not the one that was written with the image's key:
	// somebody changed it, or it is another image's. Every such error is a *HeaderError.
	// layervault image adopt takes a change by hand in.
	ErrNotAuthentic = errors.New("LUKS2 header was changed without the image's key")

	// ErrUnsupported matches every *UnsupportedError.
	ErrUnsupported = errors.New("not supported")
)

// UnsupportedError says which part of a valid header this package does not
// handle. The stock cryptsetup command may.
type UnsupportedError struct {
	What string // for instance `mandatory requirement "online-reencrypt-v2"`
}

func (e *UnsupportedError) Error() string { return e.What + " is not supported" }

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// HeaderError says which fields of an image's header keep it from being used.
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

// maxShown bounds what an error shows of one value, in bytes; mostFields, how many fields
// it names: a line is for reading.
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
