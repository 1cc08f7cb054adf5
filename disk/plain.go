package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"layervault/crypt"
	"layervault/internal/durable"
)

// plain are the types whose images are plain dm-crypt. They differ in the key.
type plain struct{ key plainKey }

// plainKey is where the key of one type comes from.
type plainKey interface {
	// keys and read are as kind has them.
	keys() []string
	read(e diskEntry, d *Disk) error
	// least is the size of a key file that can be a key, in bytes.
	least() int64
	// cipher is in dmsetup's notation.
	cipher(d Disk) string
	// keyFile is the file that the key is made as.
	keyFile(d Disk) string
	// newKey makes the content of the key file. The caller wipes it.
	newKey(ctx context.Context, d *plainDisk) ([]byte, error)
	// loadKey fills in a kernel's key from a key file; as it comes, it is a logon key of
	// keySize bytes. The caller wipes the payload, also after an error.
	loadKey(ctx context.Context, d *plainDisk, file string, key *crypt.KernelKey) error
}

// altered is a plainKey that may come from another file than the one it is made as.
type altered interface {
	source(d Disk) string
	mount(ctx context.Context, d *plainDisk, at string) error
}

// prefixed is a plainKey whose disks have paths that may begin with a word.
type prefixed interface{ prefix() string }

func (t plain) keys() []string { return append([]string{"format"}, t.key.keys()...) }

func (t plain) read(e diskEntry, d *Disk) error {
	d.Format = e.format()
	return t.key.read(e, d)
}

func (t plain) check(d *Disk, path string, rules Rules) error {
	if p, ok := t.key.(prefixed); ok {
		path = strings.TrimPrefix(path, p.prefix())
	}
	return splitImage(d, path, rules)
}

func (plain) files(d Disk) []string { return []string{d.ImagePath(), d.file("")} }

func (t plain) of(s *Set, d Disk) opener { return &plainDisk{d, s, t.key} }

// plainDisk is one disk of plain dm-crypt.
type plainDisk struct {
	Disk
	set *Set
	key plainKey
}

func (d *plainDisk) marker() string { return d.file(".init_done") }

// source is the file that the key comes from now.
func (d *plainDisk) source() string {
	if a, ok := d.key.(altered); ok {
		return a.source(d.Disk)
	}
	return d.key.keyFile(d.Disk)
}

func (d *plainDisk) mount(ctx context.Context, at string) error {
	if a, ok := d.key.(altered); ok {
		return a.mount(ctx, d, at)
	}
	return d.device(d.source()).Mount(ctx, at)
}

func (d *plainDisk) opened() (uint64, error) { return d.device(d.source()).Opened() }

func (d *plainDisk) wants() int64 { return d.Size }

func (d *plainDisk) create(ctx context.Context) error {
	if err := roomFor(d.Disk); err != nil {
		return err
	}
	return d.device(d.source()).Create(ctx, d.Size)
}

func (d *plainDisk) device(keyFile string) *crypt.PlainDevice {
	options, _ := crypt.ParseMountOptions(d.Options) // checked when the file was read
	return &crypt.PlainDevice{
		ImagePath: d.ImagePath(), Name: d.Name, Cipher: d.key.cipher(d.Disk), Options: options, FsType: d.Format, Log: d.set.cfg.Log,
		Key: func(ctx context.Context) (crypt.KernelKey, error) { return d.loadKey(ctx, keyFile) },
	}
}

func (d *plainDisk) inspect(st *Status) {
	if !st.inspectImage(d) {
		return
	}
	switch info, err := os.Lstat(d.source()); {
	case err != nil:
		st.problem("key is missing: %v", err)
	case info.Size() < d.key.least():
		st.problem("%s has %d bytes, a key needs %d", d.source(), info.Size(), d.key.least())
	case info.Mode().Perm()&0o077 != 0:
		// Pantavisor's own script makes them so; the folder may be closed all the same.
		st.warn("%s has mode %04o: other users may read the key", d.source(), info.Mode().Perm())
	}
}

// keySize is that of a key in bytes.
const keySize = 32

// logonPrefix begins the description of every key, as Pantavisor has it; logon keys must
// have one.
const logonPrefix = "logkey:"

// The files that keys come from.
const (
	rawSuffix     = ".txt"
	blobSuffix    = ".bb"
	pendingSuffix = ".bb.pending"
	tempSuffix    = ".tmp"
)

// ensureKey makes a missing key. If there is an image, a missing key is an error.
func (d *plainDisk) ensureKey(ctx context.Context, haveImage bool) error {
	made := d.key.keyFile(d.Disk)
	for _, file := range []string{made, d.source()} { // the second: of the vendor, which is used or turned into a trusted key
		if have, err := isFile(file); err != nil || have {
			return err
		}
	}
	if haveImage {
		return fmt.Errorf("%w: %s; image %s cannot be opened, and was not formatted again", ErrKeyMissing, made, d.ImagePath())
	}
	content, err := d.key.newKey(ctx, d)
	defer clear(content)
	if err != nil {
		return err
	}
	return writeKey(made, content)
}

// writeKey makes a key file.
func writeKey(name string, content []byte) error {
	if len(content) == 0 {
		return fmt.Errorf("%w: new key for %s is empty", ErrBadKey, name)
	}
	if err := durable.Replace(name, filepath.Base(name)+tempSuffix, content); err != nil {
		return fmt.Errorf("%s: %w", filepath.Dir(name), err)
	}
	return nil
}

// loadKey reads a key file as a key for the kernel. The caller wipes it.
func (d *plainDisk) loadKey(ctx context.Context, file string) (_ crypt.KernelKey, err error) {
	key := crypt.KernelKey{Type: "logon", Description: logonPrefix + d.Key, Size: keySize}
	defer func() {
		if err != nil {
			clear(key.Payload)
		}
	}()
	have, err := isFile(file)
	if err == nil && !have {
		err = fmt.Errorf("%w: %s", ErrKeyMissing, file)
	}
	if err != nil {
		return crypt.KernelKey{}, err
	}
	if err := d.key.loadKey(ctx, d, file, &key); err != nil {
		return crypt.KernelKey{}, err
	}
	if key.Type != "logon" {
		return key, nil // the payload is a command for the kernel
	}
	if len(key.Payload) < key.Size {
		return crypt.KernelKey{}, fmt.Errorf("%w: %s gives %d bytes, %d are needed", ErrBadKey, file, len(key.Payload), key.Size)
	}
	// cryptsetup reads as many as it needs.
	clear(key.Payload[key.Size:])
	key.Payload = key.Payload[:key.Size]
	return key, nil
}
