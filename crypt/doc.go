// Package crypt makes, opens and destroys encrypted images: a file that holds a
// LUKS2 volume that holds an ext4 file system. It knows nothing of layers,
// containers or volumes; who calls it says where the file lies, where it is to
// be mounted, and how to get the passphrase of an image from its UUID.
//
// Nothing that is on the disk is believed: see verified for headers, and holders.go for
// which device is an image's.
//
// An open image is a chain owned by the kernel alone: loop device (autoclear),
// dm-crypt device (removed when its last user goes), ext4 mount. A process that
// is killed at any point leaves nothing behind that a later Sweep does not find.
package crypt
