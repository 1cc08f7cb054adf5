package crypt

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
)

// The kinds of image. A writable image is an ordinary ext4 with a journal; a
// sealed one is written once, from a tar, and only ever mounted read-only.
const (
	TypeWritable = "writable"
	TypeSealed   = "sealed"
)

// The directories at the root of an image's file system. Content lives below
// DirDiff, so that what mkfs leaves at the root (lost+found) is never seen in a
// container. DirWork exists in writable images only; overlayfs needs it on the
// file system of its upper directory.
const (
	DirDiff = "diff"
	DirWork = "work"
)

// CryptParams chooses how an image is encrypted when it is made. Zero values
// mean the defaults of luks2.Params: aes-xts-plain64, 64 bytes, 4096.
type CryptParams struct {
	Cipher     string // in dm-crypt's notation, for example "aes-cbc-essiv:sha256"
	KeySize    int    // bytes of volume key
	SectorSize int    // bytes: 512, 1024, 2048 or 4096
}

// RawImage is the file that holds the encrypted image.
type RawImage struct {
	ImagePath string // absolute
}

// DeviceParams says how an open image meets the file system tree.
type DeviceParams struct {
	FsType  string       // "" or "ext4"
	Mnt     string       // the directory Get mounts at; it must exist
	UIDMaps []user.IDMap // container to host, nil for none
	GIDMaps []user.IDMap
	// Options are more of mount(8)'s options for a writable image, see ParseMountOptions.
	Options MountOptions
}

// KeyFunc returns the passphrase of the image with this LUKS2 UUID, for an image format
// (luks2.Format1 or luks2.Format2). It rejects formats that are no longer accepted: see
// CheckFormat. The caller of a KeyFunc wipes the result.
type KeyFunc func(ctx context.Context, format int, imageUUID string) (passphrase []byte, err error)

// Owner is what an image is: the kind and the id in its passphrase.
type Owner = luks2.Owner

// VirtualDevice is one encrypted image. It holds no state of its own: the kernel is
// asked each time whether the image is open, so two values with the same path are the
// same image.
type VirtualDevice struct {
	Image        RawImage
	Name         string // for logs and as the LUKS2 label; may be empty
	Type         string // TypeWritable or TypeSealed
	Deviceparams DeviceParams
	Cryptparams  CryptParams
	// Owner is bound into the header: an image does not open as another's. Needed.
	Owner Owner
	Key   KeyFunc
	Log   *slog.Logger // nil for slog.Default()
	// Tokens are the LUKS2 tokens of a new image: JSON objects with "type" and "keyslots",
	// which this package does not interpret.
	Tokens []json.RawMessage
	// Inodes is how many files a new writable image has room for, see ext4.CheckInodes; 0 for as
	// many as its size asks for.
	Inodes int64
	// Templates, shared by many devices, saves Create from running mke2fs each time; may be nil.
	Templates *Templates
}

// Templates remembers empty file systems; see ext4.Templates. The zero value is ready.
type Templates = ext4.Templates

// ImportResult describes a sealed image that was just made.
type ImportResult struct {
	// Size is the sum of the sizes of the content's files in bytes, as docker's
	// overlay2 counts a layer: each inode once, symbolic links by the length of
	// their target, directories not at all.
	Size  int64
	Bytes int64  // length of the image file
	UUID  string // LUKS2 UUID
}

// DeviceAPI is what an encrypted image can do.
type DeviceAPI interface {
	// Create makes a writable image of size bytes (the file system's size; the file
	// is sparse). ErrExists if the file is there.
	Create(ctx context.Context, size int64) error
	// ImportData makes a sealed image from an uncompressed layer tar. It reads
	// diffTar to its end. When it returns the image is durable, or nothing is left.
	ImportData(ctx context.Context, diffTar io.Reader) (ImportResult, error)
	// Get opens the image and mounts it at Deviceparams.Mnt.
	Get(ctx context.Context) error
	// Put detaches the mount at Deviceparams.Mnt. Not mounted is no error.
	Put(ctx context.Context) error
	// Remove destroys the key slots, then the file. Not there is no error.
	Remove(ctx context.Context) error
}

var _ DeviceAPI = (*VirtualDevice)(nil)
