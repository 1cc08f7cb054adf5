package crypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/ext4"
	"layervault/internal/durable"
	"layervault/internal/flock"
)

// KernelKey is a key as the kernel's key service takes it.
type KernelKey struct {
	Type        string // "logon", "trusted" or "encrypted"
	Description string
	// Payload is the argument of add_key(2): the key itself for logon, "load" and a blob
	// in hex for trusted. The receiver of a KernelKey wipes it.
	Payload []byte
	Size    int // of the key in bytes, as dm-crypt's table has it
}

// NewKernelKey has the kernel make a key, and returns what reloads it: the blob in hex.
// k.Payload says what to make ("new 32").
func NewKernelKey(k KernelKey) (blob []byte, err error) {
	err = dm.WithKey(k.Type, k.Description, k.Payload, func(id int) error {
		blob = make([]byte, maxKeyBlob)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, blob, 0)
		if err == nil && n > len(blob) {
			err = fmt.Errorf("blob size %d bytes", n)
		}
		if err != nil {
			return fmt.Errorf("read %s key %s: %w", k.Type, k.Description, err)
		}
		blob = blob[:n]
		return nil
	})
	return blob, err
}

// maxKeyBlob bounds a key's blob, in bytes of hex: the kernel's own is 512 bytes for
// trusted keys (MAX_BLOB_SIZE), twice that in hex.
const maxKeyBlob = 2 * 512

// PlainDevice is a file under plain dm-crypt, without a header: only the key is secret
// and needed. Whether it is open is asked of the kernel, as with Image.
type PlainDevice struct {
	ImagePath string // absolute
	// Name is that of the device, within ours. Two files may have the same base name.
	Name    string
	Cipher  string // in dm-crypt's notation
	Key     func(ctx context.Context) (KernelKey, error)
	Options MountOptions
	FsType  string       // of a new image: "ext4" or "ext3"
	Log     *slog.Logger // nil for slog.Default()
}

// plainSector is the encryption sector, in bytes: that of all plain devices before Linux 4.12.
const plainSector = 512

func (d *PlainDevice) dmName() string { return devicePrefix + "disk-" + d.Name }

// dmUUID follows cryptsetup's convention for plain devices.
func (d *PlainDevice) dmUUID() string { return "CRYPT-PLAIN-" + d.dmName() }

// Opened is the number of the device that the image is open as, 0 when nothing uses it; see
// Image.Opened.
func (d *PlainDevice) Opened() (uint64, error) {
	file, err := os.OpenFile(d.ImagePath, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	return openedOn(file, d.dmUUID())
}

// plainCiphers are those of Pantavisor's disks, with the key's size in bytes as dm-crypt
// has it: those of the vendor's kernel are tagged keys, 16 bytes with a header.
var plainCiphers = map[string]int{
	"aes-cbc-essiv:sha256":       32,
	"capi:cbc(aes)-plain64":      32,
	"capi:cbc(aes)-essiv:sha256": 32,
	"capi:tk(cbc(aes))-plain":    36,
}

// check rejects values that are not on that list. A plain device has no header to change,
// but device.json is a file that an attacker may change.
func (d *PlainDevice) check(keySize int) error {
	want, ok := plainCiphers[d.Cipher]
	if !ok {
		return fmt.Errorf("%w: unknown cipher %q of disk %s", ErrBadParams, d.Cipher, d.Name)
	}
	if keySize != want {
		return fmt.Errorf("%w: key for %s has %d bytes, must have %d", ErrBadParams, d.Cipher, keySize, want)
	}
	return nil
}

// Create makes the image: size bytes, filled with zeros, with a file system of 1 KiB
// blocks in it. It exists only when it is whole: it is made under another name, ".new"
// appended. ErrExists when the image is there.
func (d *PlainDevice) Create(ctx context.Context, size int64) (err error) {
	if _, err := os.Lstat(d.ImagePath); err == nil {
		return fmt.Errorf("%s: %w", d.ImagePath, ErrExists)
	}
	temp := *d
	temp.ImagePath += ".new"
	file, err := os.OpenFile(temp.ImagePath, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = file.Close()
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temp.ImagePath)))
		}
	}()
	if err := allocate(ctx, file, size); err != nil {
		return fmt.Errorf("make %s: %w", d.ImagePath, err)
	}
	node, err := temp.attach(ctx, file)
	if err != nil {
		return fmt.Errorf("make %s: %w", d.ImagePath, err)
	}
	err = ext4.MkfsSmall(ctx, node.Name(), d.FsType)
	if err == nil {
		err = node.Sync()
	}
	err = errors.Join(err, closeNamed(context.WithoutCancel(ctx), node, temp.dmName()))
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", d.ImagePath, err)
	}
	if err := renameNew(temp.ImagePath, d.ImagePath); err != nil {
		return err
	}
	return durable.SyncPath(filepath.Dir(d.ImagePath))
}

// allocate makes room for the whole image, and fills it with zeros where the file system
// cannot promise that it reads as such.
func allocate(ctx context.Context, f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		if errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.WriteAt(zeros[:min(size-at, int64(len(zeros)))], at); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("%w: %w", ErrNoSpace, err)
			}
			return err
		}
	}
	return nil
}

// attach opens the device over a file that is open for writing.
func (d *PlainDevice) attach(ctx context.Context, file *os.File) (*os.File, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	sectors := info.Size() / sector
	if sectors == 0 {
		return nil, fmt.Errorf("%w: image %s is empty", ErrBadParams, file.Name())
	}
	key, err := d.Key(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(key.Payload)
	if err := d.check(key.Size); err != nil {
		return nil, err
	}
	return build(ctx, device{
		file: file, name: d.dmName(), uuid: d.dmUUID(), blockSize: plainSector,
		load: func(control *dm.Control, name string, over uint64) error {
			return control.LoadCryptKernelKey(name, dm.CryptTable{
				Cipher: d.Cipher, KeySize: key.Size, Dev: over, Length: uint64(sectors), SectorSize: plainSector,
				NoDiscards: true,
			}, dm.KeyRef{Type: key.Type, Description: key.Description}, key.Payload)
		},
	})
}

// Mount opens the image and mounts it, or mounts an open image once more. The file system
// is checked first after an unclean unmount. An image without a file system under this
// key is left unchanged: ext4.ErrNotExt4.
func (d *PlainDevice) Mount(ctx context.Context, at string) error {
	file, err := os.OpenFile(d.ImagePath, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return retry(ctx, func() error {
		own, err := os.Open(d.ImagePath)
		if err != nil {
			return err
		}
		unlock, err := flock.Keep(ctx, own)
		if err != nil {
			return err
		}
		defer unlock()
		// A plain device has no header to verify: the backing file alone identifies the disk.
		node, err := live(file, d.dmUUID(), false)
		if err != nil {
			return fmt.Errorf("open disk %s: %w", d.Name, err)
		}
		if node == nil {
			if err := refuseHolders(file, d.dmUUID(), false); err != nil {
				return fmt.Errorf("open disk %s: %w", d.Name, err)
			}
			if node, err = d.attach(ctx, file); err != nil {
				return fmt.Errorf("open disk %s: %w", d.Name, err)
			}
			if err := d.fresh(ctx, node); err != nil {
				// Removed before the next try: a device with a wrong key would be taken for the
				// disk.
				return errors.Join(err, closeNamed(context.WithoutCancel(ctx), node, d.dmName()))
			}
		}
		defer func() { _ = node.Close() }() // the mount holds it from then on
		if err := unix.Mount(node.Name(), at, "ext4", d.Options.Flags|unix.MS_NOATIME, d.Options.Data); err != nil {
			return fmt.Errorf("mount disk %s at %s: %w", d.Name, at, err)
		}
		return nil
	})
}

// fresh checks the file system of a newly opened device.
func (d *PlainDevice) fresh(ctx context.Context, node *os.File) error {
	s, err := ext4.ReadSuper(node)
	if err != nil {
		return fmt.Errorf("disk %s: %w: wrong key for image %s, or image never formatted; image left unchanged", d.Name, err, d.ImagePath)
	}
	if s.Clean {
		return nil
	}
	ran, err := ext4.Check(ctx, node.Name())
	if ran {
		log := d.Log
		if log == nil {
			log = slog.Default()
		}
		log.Info("checked the file system of a disk after an unclean stop", "disk", d.Name, "error", err)
	}
	if err != nil {
		return fmt.Errorf("disk %s: %w", d.Name, err)
	}
	return nil
}
