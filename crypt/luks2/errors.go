package luks2

import "errors"

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
