package disk

import (
	"context"
	"os"
	"path/filepath"

	"layervault/crypt"
)

// CAAM is plain dm-crypt under a key of NXP's CAAM.
const CAAM Type = "dm-crypt-caam"

// caam is the type of disks under a key of NXP's CAAM. In mode nxp <key>.bb is
// caam-keygen's black blob, which its import turns into a tagged key; in mode mainline
// <key>.bb is the blob of a trusted key.
type caam struct{}

// taggedSize is what the kernel is given of a tagged key, in bytes: 16 of key in a black
// blob, with its header.
const taggedSize = 36

func (caam) keys() []string { return []string{"mode"} }

func (caam) read(e diskEntry, d *Disk) error { return e.mode(d) }

// prefix implements prefixed. It begins the path of today's disks, so that an older Pantavisor keeps off.
func (caam) prefix() string { return "-v2 " }

func (caam) least() int64 { return 1 }

func (caam) cipher(d Disk) string {
	if d.Mode == NXP {
		return "capi:tk(cbc(aes))-plain"
	}
	return "capi:cbc(aes)-plain64"
}

func (caam) keyFile(d Disk) string { return d.file(blobSuffix) }

func (caam) newKey(ctx context.Context, d *plainDisk) ([]byte, error) {
	if d.Mode == Mainline {
		return d.newTrusted()
	}
	t := d.set.cfg.Tools
	if _, err := d.run(ctx, nil, t.CAAMKeygen, "create", d.Key, "ecb", "-s", "16"); err != nil {
		return nil, err
	}
	defer os.Remove(filepath.Join(t.CAAMFolder, d.Key))
	return os.ReadFile(filepath.Join(t.CAAMFolder, d.Key+blobSuffix))
}

func (caam) loadKey(ctx context.Context, d *plainDisk, file string, key *crypt.KernelKey) (err error) {
	if d.Mode == Mainline {
		return d.loadTrusted(file, key)
	}
	key.Size = taggedSize
	key.Payload, err = d.importCAAM(ctx)
	return err
}

// importCAAM has NXP's program turn a black blob into a tagged key.
func (d *plainDisk) importCAAM(ctx context.Context) ([]byte, error) {
	t := d.set.cfg.Tools
	if err := os.MkdirAll(t.CAAMFolder, 0o700); err != nil {
		return nil, err
	}
	blob, err := os.ReadFile(d.file(blobSuffix))
	if err != nil {
		return nil, err
	}
	at, imported := filepath.Join(t.CAAMFolder, d.Key+blobSuffix), d.Key+".import"
	if err := os.WriteFile(at, blob, 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(at)
	if _, err := d.run(ctx, nil, t.CAAMKeygen, "import", d.Key+blobSuffix, imported); err != nil {
		return nil, err
	}
	defer os.Remove(filepath.Join(t.CAAMFolder, imported))
	return os.ReadFile(filepath.Join(t.CAAMFolder, imported))
}
