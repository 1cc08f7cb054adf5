package trusted

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/crypt/loop"
)

// backing is the length of the memory beneath the device: a page, of which the first
// sector is ours.
const backing = 4096

// devicePrefix begins with that of images, so that what a kill leaves behind goes with
// theirs when the plugin starts (crypt.Sweep).
const devicePrefix = "layervault-key-"

// attempts is the number of times the device is made, because that sweep may remove it
// before it is open.
const attempts = 3

// loadTable puts the crypt table of one key into the device name.
type loadTable func(control *dm.Control, name string, t dm.CryptTable) error

// named is the table with a key in the thread's keyring.
func named(key dm.KeyRef) loadTable {
	return func(control *dm.Control, name string, t dm.CryptTable) error {
		return control.LoadCryptNamed(name, t, key)
	}
}

// payload is the table with a key at hand, which is wiped.
func payload(key []byte) loadTable {
	return func(control *dm.Control, name string, t dm.CryptTable) error {
		defer clear(key)
		return control.LoadCrypt(name, t, description, key)
	}
}

// encryptSector replaces sector by its ciphertext. sector must be page-aligned: it is
// written past the page cache, where the key would stay behind.
func encryptSector(ctx context.Context, c cipher, sector []byte, load loadTable) error {
	return withDevice(ctx, c, load, func(device, beneath *os.File) error {
		if _, err := device.WriteAt(sector, 0); err != nil {
			return fmt.Errorf("write the key: %w", err)
		}
		clear(sector)
		if err := device.Sync(); err != nil {
			return fmt.Errorf("write the key: %w", err)
		}
		if _, err := beneath.ReadAt(sector, 0); err != nil {
			return fmt.Errorf("read the encrypted key: %w", err)
		}
		return nil
	})
}

// decryptSector replaces ciphertext by its plaintext under the key.
func decryptSector(ctx context.Context, c cipher, sector []byte, load loadTable) error {
	return withDevice(ctx, c, load, func(device, beneath *os.File) error {
		if _, err := beneath.WriteAt(sector, 0); err != nil {
			return fmt.Errorf("write the encrypted key: %w", err)
		}
		clear(sector)
		if _, err := device.ReadAt(sector, 0); err != nil {
			return fmt.Errorf("read the key: %w", err)
		}
		return nil
	})
}

// withDevice makes the device for the time of fn: memory beneath a loop device beneath
// dm-crypt. Nothing of it has a name in a file system.
func withDevice(ctx context.Context, c cipher, load loadTable, fn func(device, beneath *os.File) error) (err error) {
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoTrusted, err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	fd, err := unix.MemfdCreate("layervault-key", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("allocate memory for the key device: %w", err)
	}
	beneath := os.NewFile(uintptr(fd), "layervault-key")
	defer func() { err = errors.Join(err, beneath.Close()) }()
	if err := beneath.Truncate(backing); err != nil {
		return fmt.Errorf("allocate memory for the key device: %w", err)
	}
	lo, err := loop.Attach(ctx, beneath, loop.Options{BlockSize: sectorSize})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lo.Close()) }()
	table := dm.CryptTable{Cipher: c.name, KeySize: c.key, Dev: lo.Dev, Length: backing / sectorSize, SectorSize: sectorSize}
	for range attempts {
		err = useDevice(control, table, load, func(device *os.File) error { return fn(device, beneath) })
		if !errors.Is(err, errGone) {
			break
		}
	}
	return err
}

// errGone: the device went before it was open.
var errGone = errors.New("key device is gone")

// useDevice makes the device of one table, opens it, and removes it again. A kill leaves, at
// most, an unused device.
func useDevice(control *dm.Control, table dm.CryptTable, load loadTable, fn func(*os.File) error) (err error) {
	name := devicePrefix + randomName()
	if _, err := control.Create(name, ""); err != nil {
		return err
	}
	defer func() {
		// Deferred, because udev or a person may have the device open.
		if e := control.Remove(name, true); e != nil && !errors.Is(e, dm.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	if err := load(control, name, table); err != nil {
		return err
	}
	if err := control.ResumeUnseen(name); err != nil {
		return gone(err)
	}
	info, err := control.Info(name)
	if err != nil {
		return gone(err)
	}
	device, err := os.OpenFile(info.Node(), os.O_RDWR|os.O_SYNC|unix.O_DIRECT, 0)
	if err != nil {
		return gone(fmt.Errorf("open the key device: %w", err))
	}
	return errors.Join(fn(device), device.Close())
}

func gone(err error) error {
	if errors.Is(err, dm.ErrNotExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
