// Package dm drives the kernel's device-mapper through the ioctls of
// <linux/dm-ioctl.h> on /dev/mapper/control: create a device, load a table,
// resume, remove, list, ask for status. It needs CAP_SYS_ADMIN.
//
// Device nodes are devtmpfs's /dev/dm-N. The names under /dev/mapper are made by
// udev, which may be absent or late, so nothing here relies on them.
package dm
