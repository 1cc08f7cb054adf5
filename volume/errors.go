package volume

import (
	"errors"

	"layervault/internal/authentic"
)

var (
	// ErrNotFound: there is no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrExists: the volume exists, with other options.
	ErrExists = errors.New("volume exists")
	// ErrUnknownOption: no volume has an option of this name.
	ErrUnknownOption = errors.New("unknown volume option")
	// ErrBadOption: the value of an option is invalid, or conflicts with another option.
	ErrBadOption = errors.New("bad volume option")
	// ErrBadName: invalid name of a volume, platform or revision.
	ErrBadName = errors.New("bad name")
	// ErrInUse: something uses the volume; the text says what.
	ErrInUse = errors.New("volume is in use")
	// ErrDamaged: the volume's record cannot be read, or contradicts others.
	ErrDamaged = errors.New("volume is damaged")
	// ErrList: the list of a tier's volumes cannot be read, or was not written with the
	// tier's key. It is ErrDamaged too: no volume of the list can be used.
	ErrList error = damagedFile("list of volumes is damaged")
	// ErrRevisions: the list of revisions cannot be read, or was not written with the
	// vault's key. It is ErrDamaged too.
	ErrRevisions error = damagedFile("list of revisions is damaged")
	// ErrImmutable: files of the volume have flags that forbid a change (chattr +i, +a), and
	// the flags cannot be cleared.
	ErrImmutable = errors.New("file is immutable (chattr +i)")
	// ErrForged, in an error that is ErrDamaged too: a record was not written with the
	// tier's key, or contradicts one that was.
	ErrForged = authentic.ErrForged
	// ErrOldFormat, in an error that is ErrDamaged too: a record without authentication, in
	// a tier that was upgraded.
	ErrOldFormat = authentic.ErrOldFormat
	// ErrUnlisted, in an error that is ErrDamaged too: the volume is not in the tier's list
	// of volumes.
	ErrUnlisted = errors.New("not in the list of volumes of its tier")
	// ErrMissing, in an error that is ErrDamaged too: the tier's list has a volume that is
	// not on the disk.
	ErrMissing = errors.New("missing from the disk")
	// ErrAmbiguous: two volumes have the same name.
	ErrAmbiguous = errors.New("two volumes have the same name")
	// ErrNoDisk: no disk of that name is configured.
	ErrNoDisk = errors.New("no such disk")
	// ErrNoRevision: the revision of the host is needed, and not set.
	ErrNoRevision = errors.New("the host's revision is not set")
	// ErrNotHere: volumes of this kind do not have the operation.
	ErrNotHere = errors.New("not possible with this volume")
	// ErrBusyPath: the path of a mount is in use.
	ErrBusyPath = errors.New("path is in use")
)

// damagedFile is a damaged file of the store that is no volume.
type damagedFile string

func (e damagedFile) Error() string { return string(e) }

// Is makes the error match ErrDamaged.
func (e damagedFile) Is(target error) bool { return target == ErrDamaged }
