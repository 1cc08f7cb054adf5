// Package crypt makes, opens and destroys encrypted images: a file that holds a LUKS2
// volume that holds an ext4 file system. It knows nothing of layers, containers or
// volumes; the caller supplies the path of the file, the mount point, and a function
// that returns the passphrase for the image's UUID.
//
// No data on the disk is trusted: see verified for headers, and holders.go for the
// device of an image.
//
// An open image is a chain owned by the kernel alone: loop device (autoclear),
// dm-crypt device (removed when its last user goes), ext4 mount. A process that
// is killed at any point leaves nothing behind that a later Sweep does not find.
package crypt
