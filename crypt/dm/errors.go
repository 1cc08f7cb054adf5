package dm

import "errors"

var (
	// ErrUnavailable: this kernel offers no device-mapper.
	ErrUnavailable = errors.New("device-mapper is not available")
	// ErrNotExist: no device of that name or UUID.
	ErrNotExist = errors.New("no such device-mapper device")
	// ErrExists: a device of that name or UUID is already there.
	ErrExists = errors.New("device-mapper device exists")
	// ErrBusy: the device is open and was not to be removed later.
	ErrBusy = errors.New("device-mapper device is in use")
	// ErrBadName: the name or UUID cannot be a device's.
	ErrBadName = errors.New("invalid device-mapper name")
	// ErrTarget: the kernel refused the table: unknown target, cipher not built in, or
	// parameters it does not know. The reason is in the kernel's log.
	ErrTarget = errors.New("kernel refused the device-mapper table")
	// ErrNoKey: the kernel did not find the key the table names.
	ErrNoKey = errors.New("key of the device-mapper table not found in the keyring")
)
