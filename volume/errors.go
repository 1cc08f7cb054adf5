package volume

import (
	"errors"

	"layervault/internal/authentic"
)

var (
	// ErrNotFound: there is no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrExists: there is a volume of that name, with other options.
	ErrExists = errors.New("volume exists")
	// ErrUnknownOption: an option that no volume has.
	ErrUnknownOption = errors.New("unknown volume option")
	// ErrBadOption: an option's value makes no sense, or contradicts another one.
	ErrBadOption = errors.New("bad volume option")
	// ErrBadName: no volume, platform or revision can be called that.
	ErrBadName = errors.New("bad name")
	// ErrInUse: something uses the volume; the text says what.
	ErrInUse = errors.New("volume is in use")
	// ErrDamaged: what the volume says of itself cannot be read.
	ErrDamaged = errors.New("volume is damaged")
	// ErrForged, in an error that is ErrDamaged too: something was not written with the
	// tier's key, or contradicts what was.
	ErrForged = authentic.ErrForged
	// ErrOldFormat, in an error that is ErrDamaged too: a record without authentication, in
	// a tier that was upgraded.
	ErrOldFormat = authentic.ErrOldFormat
	// ErrUnlisted, in an error that is ErrDamaged too: the tier's list of volumes does not
	// know the volume.
	ErrUnlisted = errors.New("not in the list of volumes of its tier")
	// ErrMissing, in an error that is ErrDamaged too: the tier's list has a volume that is
	// not on the disk.
	ErrMissing = errors.New("gone from the disk")
	// ErrAmbiguous: two volumes have the same name.
	ErrAmbiguous = errors.New("two volumes have the same name")
	// ErrNoDisk: no disk of that name is configured.
	ErrNoDisk = errors.New("no such disk")
	// ErrNoRevision: nobody said which revision this host runs.
	ErrNoRevision = errors.New("the host's revision is not set")
	// ErrNotHere: what was asked cannot be done with a volume of this kind.
	ErrNotHere = errors.New("not possible with this volume")
	// ErrBusyPath: something else is mounted at, or lies in, the path of a mount.
	ErrBusyPath = errors.New("path is in use")
)
