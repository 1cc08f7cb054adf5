package dm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Info is what DM_DEV_STATUS says of a device.
type Info struct {
	Name, UUID  string
	Dev         uint64 // as unix.Mkdev gives it
	OpenCount   int
	TargetCount int  // lines of the active table
	Active      bool // has a table that is in use
	Suspended   bool
	ReadOnly    bool
	Deferred    bool // goes when its last user closes it
}

// Node is the device's node in devtmpfs.
func (i Info) Node() string { return NodePath(i.Dev) }

// NodePath is the node of a device-mapper device by its number.
func NodePath(dev uint64) string { return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)) }

func decodeInfo(h []byte) Info {
	flags := native.Uint32(h[offFlags:])
	dev := native.Uint64(h[offDev:])
	return Info{
		Name:        cstring(h[offName:offUUID]),
		UUID:        cstring(h[offUUID : offUUID+unix.DM_UUID_LEN]),
		Dev:         unix.Mkdev(kernelMajor(dev), kernelMinor(dev)),
		OpenCount:   int(int32(native.Uint32(h[offOpenCount:]))),
		TargetCount: int(native.Uint32(h[offTargetCount:])),
		Active:      flags&unix.DM_ACTIVE_PRESENT_FLAG != 0,
		Suspended:   flags&unix.DM_SUSPEND_FLAG != 0,
		ReadOnly:    flags&unix.DM_READONLY_FLAG != 0,
		Deferred:    flags&unix.DM_DEFERRED_REMOVE != 0,
	}
}

// The kernel passes device numbers in its huge_encode_dev form.
func kernelMajor(d uint64) uint32 { return uint32((d & 0xfff00) >> 8) }
func kernelMinor(d uint64) uint32 { return uint32((d & 0xff) | ((d >> 12) & 0xfff00)) }

// Create makes a device without a table. uuid may be empty; both must be new.
func (c *Control) Create(name, uuid string) (Info, error) {
	if err := errors.Join(checkName(name, unix.DM_NAME_LEN), checkName(uuid, unix.DM_UUID_LEN)); err != nil {
		return Info{}, err
	}
	if name == "" {
		return Info{}, fmt.Errorf("%w: empty", ErrBadName)
	}
	req := newRequest(headerSize, name, uuid, 0)
	err := c.ioctl(unix.DM_DEV_CREATE, req)
	if errors.Is(err, ErrBusy) {
		err = fmt.Errorf("%w: %w", ErrExists, err) // how the kernel says that a name or UUID is taken
	}
	if err != nil {
		return Info{}, fmt.Errorf("create device-mapper device %s: %w", name, err)
	}
	return decodeInfo(req), nil
}

// Info asks for a device by name. ErrNotExist where there is none.
func (c *Control) Info(name string) (Info, error) { return c.info(name, "") }

// InfoByUUID asks for a device by its UUID.
func (c *Control) InfoByUUID(uuid string) (Info, error) { return c.info("", uuid) }

func (c *Control) info(name, uuid string) (Info, error) {
	// Names are set before the lookup; too long ones cannot exist.
	if err := errors.Join(checkName(name, unix.DM_NAME_LEN), checkName(uuid, unix.DM_UUID_LEN)); err != nil {
		return Info{}, err
	}
	req := newRequest(headerSize, name, uuid, 0)
	if err := c.ioctl(unix.DM_DEV_STATUS, req); err != nil {
		return Info{}, fmt.Errorf("status of device-mapper device %s%s: %w", name, uuid, err)
	}
	return decodeInfo(req), nil
}

// Resume activates the loaded table, or resumes a suspended device.
func (c *Control) Resume(name string) error {
	return c.simple(unix.DM_DEV_SUSPEND, name, 0, "resume")
}

// udevHandsOff are the flags that tell udev's device-mapper rules to ignore a device:
// no scan for file systems or partitions, no links. They are in the upper half of
// event_nr (libdevmapper.h, DM_UDEV_DISABLE_*_FLAG: subsystem, disk and other rules);
// the lower half names a semaphore that signals the end of the rules, 0 for none.
const udevHandsOff = (0x0002 | 0x0004 | 0x0008) << 16

// ResumeUnseen is Resume for a device that udev is not to read: what it reads stays in
// the page cache for a while.
func (c *Control) ResumeUnseen(name string) error {
	if err := checkName(name, unix.DM_NAME_LEN); err != nil {
		return err
	}
	req := newRequest(headerSize, name, "", 0)
	native.PutUint32(req[offEventNr:], udevHandsOff)
	if err := c.ioctl(unix.DM_DEV_SUSPEND, req); err != nil {
		return fmt.Errorf("resume device-mapper device %s: %w", name, err)
	}
	return nil
}

// Suspend finishes what is under way and holds back further requests. A mounted
// file system is frozen first.
func (c *Control) Suspend(name string) error {
	return c.simple(unix.DM_DEV_SUSPEND, name, unix.DM_SUSPEND_FLAG, "suspend")
}

// Remove removes a device. With deferred, one that is in use goes when its last user
// closes it; otherwise that is ErrBusy.
func (c *Control) Remove(name string, deferred bool) error {
	var flags uint32
	if deferred {
		flags = unix.DM_DEFERRED_REMOVE
	}
	return c.simple(unix.DM_DEV_REMOVE, name, flags, "remove")
}

func (c *Control) simple(cmd uint, name string, flags uint32, verb string) error {
	if err := checkName(name, unix.DM_NAME_LEN); err != nil {
		return err
	}
	if err := c.ioctl(cmd, newRequest(headerSize, name, "", flags)); err != nil {
		return fmt.Errorf("%s device-mapper device %s: %w", verb, name, err)
	}
	return nil
}

// List names every device of the host.
func (c *Control) List() ([]NameEntry, error) {
	_, data, err := c.query(unix.DM_LIST_DEVICES, "", "", 0)
	if err != nil {
		return nil, fmt.Errorf("list device-mapper devices: %w", err)
	}
	names, err := decodeNames(data)
	for i := range names {
		names[i].Dev = unix.Mkdev(kernelMajor(names[i].Dev), kernelMinor(names[i].Dev))
	}
	return names, err
}

// Deps lists the devices that a device's active table uses, as unix.Mkdev numbers.
func (c *Control) Deps(name string) ([]uint64, error) {
	_, data, err := c.query(unix.DM_TABLE_DEPS, name, "", 0)
	if err != nil {
		return nil, fmt.Errorf("dependencies of device-mapper device %s: %w", name, err)
	}
	deps, err := decodeDeps(data)
	for i := range deps {
		deps[i] = unix.Mkdev(kernelMajor(deps[i]), kernelMinor(deps[i]))
	}
	return deps, err
}
