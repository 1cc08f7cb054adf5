package dm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Load puts a table into the inactive slot of a device; Resume puts it to use.
// ErrTarget wraps what the kernel said when it refuses the table.
func (c *Control) Load(name string, readOnly bool, targets ...Target) error {
	if err := checkName(name, unix.DM_NAME_LEN); err != nil {
		return err
	}
	specs, err := encodeTargets(targets)
	if err != nil {
		return err
	}
	var flags uint32
	if readOnly {
		flags |= unix.DM_READONLY_FLAG
	}
	req := newRequest(headerSize+len(specs), name, "", flags)
	native.PutUint32(req[offTargetCount:], uint32(len(targets)))
	copy(req[headerSize:], specs)
	err = c.ioctl(unix.DM_TABLE_LOAD, req)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.E2BIG): // verity's, where a device is too small
		return fmt.Errorf("load table of %s: %w: %w", name, ErrTarget, err)
	case errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EKEYREVOKED), errors.Is(err, unix.EKEYEXPIRED):
		return fmt.Errorf("load table of %s: %w: %w", name, ErrNoKey, err)
	default:
		return fmt.Errorf("load table of %s: %w", name, err)
	}
}

// Clear drops a table that Load put into the inactive slot of a device. None there is no
// error.
func (c *Control) Clear(name string) error {
	return c.simple(unix.DM_TABLE_CLEAR, name, 0, "clear the loaded table of")
}

// Table is the active table as it was loaded. The kernel shows a key that came from
// the keyring by its description only.
func (c *Control) Table(name string) ([]Target, error) {
	return c.targets(name, unix.DM_STATUS_TABLE_FLAG)
}

// Status is what each target of the active table reports of itself.
func (c *Control) Status(name string) ([]Target, error) { return c.targets(name, 0) }

func (c *Control) targets(name string, flags uint32) ([]Target, error) {
	h, data, err := c.query(unix.DM_TABLE_STATUS, name, "", flags)
	if err != nil {
		return nil, fmt.Errorf("table of device-mapper device %s: %w", name, err)
	}
	return decodeTargets(data, native.Uint32(h[offTargetCount:]))
}

// TargetVersion asks for the version of a target type and loads its module where it
// is one. It needs version 4.41 of the interface (Linux 5.4); ErrTarget where the
// kernel has no such target, or is older.
func (c *Control) TargetVersion(targetType string) (Version, error) {
	if !c.version.AtLeast(4, 41) {
		return Version{}, fmt.Errorf("%w: interface %s does not report target versions", ErrTarget, c.version)
	}
	h, data, err := c.query(unix.DM_GET_TARGET_VERSION, targetType, "", 0)
	if err != nil {
		return Version{}, fmt.Errorf("device-mapper target %s: %w: %w", targetType, ErrTarget, err)
	}
	_ = h
	// struct dm_target_versions: next u32, version [3]u32, name.
	if len(data) < 16 {
		return Version{}, fmt.Errorf("device-mapper target %s: %w: short answer", targetType, ErrTarget)
	}
	return decodeVersion(data[4:]), nil
}
