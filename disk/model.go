package disk

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"layervault/persist"
	"layervault/volume"
)

// ErrBadFile: device.json, run.json or src.json makes no sense. Every fault is an
// [EntryError] in it.
var ErrBadFile = errors.New("bad device.json")

// EntryError is one fault of a file, with the entry it is in.
type EntryError struct {
	Entry string // such as disks[1] "secrets"
	Err   error
}

func (e *EntryError) Error() string { return e.Entry + ": " + e.Err.Error() }
func (e *EntryError) Unwrap() error { return e.Err }

// Warning is something in a file that is passed over, as Pantavisor passes it over, or
// that keeps one entry of it from being used.
type Warning struct {
	Entry string // such as disks[1] "secrets"
	Text  string
}

func (w Warning) String() string { return w.Entry + ": " + w.Text }

// faults are joined in one line.
type faults []error

func (f faults) Error() string {
	words := make([]string, len(f))
	for i, err := range f {
		words[i] = err.Error()
	}
	return strings.Join(words, "; ")
}

func (f faults) Unwrap() []error { return f }

// Type is the type of a disk. The types that can be opened are in kinds.
type Type string

// otherTypes are Pantavisor's own: a file that has such disks is read, and they are
// listed, but not opened.
var otherTypes = []Type{"swap-disk", "volume-disk", "dual"}

// Mode is which kernel a crypt disk's hardware key belongs to.
type Mode string

// Mainline keys are the kernel's trusted keys. NXP keys are of the vendor's kernel; a
// disk without a mode is one, as all were before modes.
const (
	Mainline Mode = "mainline"
	NXP      Mode = "nxp"
)

// Disk is one disk of device.json.
type Disk struct {
	Name    string
	Aliases []string
	Type    Type
	Mode    Mode // of caam and dcp
	Default bool // for volumes that name no disk

	Dir     string // the directory; of a crypt disk, the folder of image and key
	Image   string // file name
	Size    int64  // bytes of the image
	Key     string // name; the tier of a luks disk
	Format  string // "ext4" or "ext3"
	Options string // of mount -o
	// MigrateKey turns a dcp disk's vendor key into a trusted key.
	MigrateKey bool
	// Fault is the reason why the disk cannot be used here, an [EntryError]; nil if it can. Its
	// names are known anyway, so that its volumes are not put on another disk.
	Fault error
}

// IsCrypt reports whether the disk is an image.
func (d Disk) IsCrypt() bool { return d.Image != "" }

// Known reports whether disks of this type can be opened here.
func (d Disk) Known() bool { return !slices.Contains(otherTypes, d.Type) }

// ImagePath is where the disk's image lies.
func (d Disk) ImagePath() string { return filepath.Join(d.Dir, d.Image) }

// file is a file in the disk's folder that begins with the key's name.
func (d Disk) file(suffix string) string { return filepath.Join(d.Dir, d.Key+suffix) }

// named reports whether a disk has a name, or an alias.
func (d Disk) named(name string) bool { return d.Name == name || slices.Contains(d.Aliases, name) }

// Volume is one entry of device.json's volumes.
type Volume struct {
	Name        string
	Persistence volume.Persistence
	Disk        string // the disk's own name; "" for none
}

// File is the content of device.json.
type File struct {
	Disks    []Disk
	Volumes  []Volume
	Warnings []Warning // in the order of the file
}

// Rules bound what a file may say.
type Rules struct {
	// Root is the folder that every disk lies below.
	Root   string
	Layout persist.Layout
}

// Find finds a disk by name or alias.
func (f File) Find(name string) (Disk, bool) {
	for _, d := range f.Disks {
		if d.named(name) {
			return d, true
		}
	}
	return Disk{}, false
}

// Default is the disk of volumes that name none: the first with default "yes".
func (f File) Default() (Disk, bool) {
	for _, d := range f.Disks {
		if d.Default {
			return d, true
		}
	}
	return Disk{}, false
}
