package crypt

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/verity"
)

// Verity says what is done where a sealed image has, or would get, no hash tree.
type Verity string

// The values. The zero value is VerityPrefer.
const (
	VerityPrefer  Verity = "prefer"  // made and opened without
	VerityRequire Verity = "require" // neither made nor opened: *UnverifiedError
)

// Reasons of an UnverifiedError; ErrNoVerity is the third.
var (
	// ErrNoTree: the image was made without a hash tree.
	ErrNoTree = errors.New("layer was made without a hash tree")
	// ErrSmallSectors: a hash tree needs encryption sectors of 4096 bytes.
	ErrSmallSectors = errors.New("a hash tree needs encryption sectors of 4096 bytes")
)

// UnverifiedError says that an image is not made, or not opened, because VerityRequire holds.
type UnverifiedError struct {
	Owner  Owner
	Reason error // ErrNoTree, ErrSmallSectors or ErrNoVerity
}

func (e *UnverifiedError) Error() string {
	return fmt.Sprintf("%s %s: refused by verity=%s: %v", e.Owner.Kind, e.Owner.ID, VerityRequire, e.Reason)
}

// Unwrap makes the error match its reason.
func (e *UnverifiedError) Unwrap() error { return e.Reason }

// What an image may need of the kernel beyond dm-crypt and ext4. Each is a KernelError.
var (
	// ErrNoVerity: a hash tree needs dm-verity.
	ErrNoVerity error = KernelError{Feature: "dm-verity", Option: "CONFIG_DM_VERITY", Module: "dm_verity"}
	// ErrNoEROFS: the image has an EROFS. A kernel without holes in its files, which are from
	// Linux 5.15, counts as one without.
	ErrNoEROFS error = KernelError{Feature: "EROFS of Linux 5.16", Option: "CONFIG_EROFS_FS", Module: "erofs"}
	// ErrNoXattrs: the kernel has EROFS without attributes, where a layer's deletions would come
	// to nothing.
	ErrNoXattrs error = KernelError{Feature: "extended attributes of EROFS", Option: "CONFIG_EROFS_FS_XATTR and CONFIG_EROFS_FS_SECURITY"}
)

// KernelError says what this kernel lacks.
type KernelError struct {
	Feature string
	Option  string // of the kernel's configuration
	Module  string // that has it, "" for none
}

func (e KernelError) Error() string {
	text := fmt.Sprintf("kernel lacks %s (kernel option %s", e.Feature, e.Option)
	if e.Module != "" {
		text += ", module " + e.Module
	}
	return text + ")"
}

// plan is how a sealed image is made.
type plan struct {
	fs     FileSystem
	hashed bool
}

// plan chooses by what this kernel has, or says what VerityRequire misses. A device of dm-verity
// takes requests of whole hash blocks only, so that direct I/O of 512 bytes, which is what people
// choose smaller sectors for, would not work in a sealed layer: then there is no tree.
func (im *Image) plan(m Making) (plan, error) {
	p := plan{fs: m.FileSystem}
	if p.fs == "" {
		p.fs = Ext4
		if HasEROFS() {
			p.fs = EROFS
		}
	}
	if m.Params.SectorSize != 0 && m.Params.SectorSize != verity.BlockSize {
		return p, im.unverified(ErrSmallSectors)
	}
	has, err := HasVerity()
	if err != nil {
		return p, err
	}
	if p.hashed = has; !has {
		return p, im.unverified(ErrNoVerity)
	}
	return p, nil
}

// unverified is the error for an image without a hash tree; nil where none is required.
func (im *Image) unverified(reason error) error {
	if im.Verity != VerityRequire {
		return nil
	}
	return &UnverifiedError{Owner: im.Owner, Reason: reason}
}

// HasVerity says whether this kernel has dm-verity, and loads its module where it is one. Error:
// ErrNoMapper, or that of opening device-mapper.
func HasVerity() (bool, error) {
	control, err := dm.Open()
	if err != nil {
		return false, err
	}
	defer func() { _ = control.Close() }()
	return control.HasVerity(), nil
}

// HasEROFS says whether this kernel reads the EROFS that we write, and loads its module where it
// is one. Holes in files are newer than the file system (Linux 5.15), and listed since 5.16.
func HasEROFS() bool {
	fd, err := unix.Fsopen(string(EROFS), unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	_, err = os.Stat("/sys/fs/erofs/features/chunked_file")
	return err == nil
}

// checkXattrs is ErrNoXattrs for a directory on a file system that has none, or not all that
// layers have: overlayfs's marks and file capabilities.
func checkXattrs(dir string) error {
	for _, name := range []string{"trusted.overlay.opaque", "security.capability"} {
		if _, err := unix.Lgetxattr(dir, name, nil); errors.Is(err, unix.EOPNOTSUPP) {
			return ErrNoXattrs
		}
	}
	return nil
}
