// Package crypt makes, opens and destroys encrypted images: a file that holds a LUKS2
// volume that holds an ext4 file system. It knows nothing of layers, containers or
// volumes; the caller supplies the path of the file, the mount point, and a function
// that returns the passphrase for the image's UUID.
//
// Image is the whole of it: Create or Import makes the file, Mount opens it, Hold keeps it
// open, Remove destroys it. PlainDevice is the same for plain dm-crypt, without a header.
// compat.go has the names that secureoverlay2 uses.
//
// No data on the disk is trusted: see verified for headers, and holders.go for the
// device of an image.
//
// An open image is a chain owned by the kernel alone: loop device (autoclear),
// dm-crypt device (removed when its last user goes), ext4 mount. A process that
// is killed at any point leaves nothing behind that a later Sweep does not find.
package crypt
