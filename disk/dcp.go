package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"layervault/crypt"
	"layervault/internal/durable"
)

// DCP is plain dm-crypt under a key of NXP's DCP.
const DCP Type = "dm-crypt-dcp"

// dcp is the type of disks under a key of NXP's DCP. In mode nxp <key> is a blob that
// x--pv-dcp-tool makes and turns into the key; in mode mainline <key>.bb is the blob of a
// trusted key, made of the former where migrate_keyblob says so.
type dcp struct{}

func (dcp) keys() []string { return []string{"mode", "migrate_keyblob"} }

func (dcp) read(e diskEntry, d *Disk) error {
	if err := e.mode(d); err != nil {
		return err
	}
	d.MigrateKey = e.yes("migrate_keyblob")
	if d.MigrateKey && d.Mode != Mainline {
		d.MigrateKey = false
		e.warn("key migrate_keyblob: ignored, only for mode %s", Mainline)
	}
	return nil
}

func (dcp) least() int64 { return 1 }

func (dcp) cipher(Disk) string { return "capi:cbc(aes)-essiv:sha256" }

func (dcp) keyFile(d Disk) string {
	if d.Mode == NXP {
		return d.file("")
	}
	return d.file(blobSuffix)
}

// source implements altered: a mainline disk without a trusted key uses the vendor's.
func (dcp) source(d Disk) string {
	if d.Mode == Mainline {
		if _, err := os.Lstat(d.file(blobSuffix)); err != nil {
			if _, err := os.Lstat(d.file("")); err == nil {
				return d.file("")
			}
		}
	}
	return dcp{}.keyFile(d)
}

func (dcp) newKey(ctx context.Context, d *plainDisk) ([]byte, error) {
	if d.Mode == Mainline {
		return d.newTrusted()
	}
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw)
	defer clear(raw)
	made := d.file(".new")
	defer os.Remove(made)
	if _, err := d.run(ctx, raw, d.set.cfg.Tools.DCPTool, "encrypt", made); err != nil {
		return nil, err
	}
	return os.ReadFile(made)
}

func (dcp) loadKey(ctx context.Context, d *plainDisk, file string, key *crypt.KernelKey) (err error) {
	if file != d.file("") {
		return d.loadTrusted(file, key)
	}
	key.Payload, err = d.run(ctx, nil, d.set.cfg.Tools.DCPTool, "decrypt", file)
	return err
}

// mount implements altered. A vendor's key that is to become a trusted one does so here:
// the new blob is pending until the disk was mounted with it.
func (dcp) mount(ctx context.Context, d *plainDisk, at string) error {
	if !d.MigrateKey || d.source() != d.file("") {
		return d.device(d.source()).Mount(ctx, at)
	}
	if number, err := d.opened(); err != nil || number != 0 {
		return errors.Join(err, d.device(d.source()).Mount(ctx, at)) // open: nothing would prove the blob
	}
	pending := d.file(pendingSuffix)
	if err := d.migrate(ctx, pending); err != nil {
		return fmt.Errorf("convert the key to a trusted key: %w", err)
	}
	if err := d.set.step(d.Disk, "pending"); err != nil {
		return err
	}
	if err := d.device(pending).Mount(ctx, at); err != nil {
		return errors.Join(fmt.Errorf("mount with the new trusted key: %w", err), os.Remove(pending))
	}
	if err := os.Rename(pending, d.file(blobSuffix)); err != nil {
		return err
	}
	d.set.cfg.Log.InfoContext(ctx, "converted the key of a disk to a trusted key; the vendor's key file is no longer needed", "disk", d.Name, "old", d.file(""))
	return durable.SyncPath(d.Dir)
}

// migrate makes the blob of a trusted key of the vendor's key.
func (d *plainDisk) migrate(ctx context.Context, pending string) error {
	raw, err := d.run(ctx, nil, d.set.cfg.Tools.DCPTool, "decrypt", d.file(""))
	defer clear(raw)
	if err != nil {
		return err
	}
	blob, err := d.run(ctx, raw, d.set.cfg.Tools.DCPBlob)
	defer clear(blob)
	if err != nil {
		return err
	}
	return writeKey(pending, blob)
}
