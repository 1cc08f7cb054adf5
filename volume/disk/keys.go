package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt"
)

// Tools are how keys of the kernel and of vendors are reached.
type Tools struct {
	// TrustedType is the kernel's key type of trusted keys: "trusted".
	TrustedType string
	// NewTrusted is what a new one is made with: "new 32".
	NewTrusted string
	// LoadTrusted comes before a blob: "load ".
	LoadTrusted string
	// CAAMKeygen and CAAMFolder: NXP's program, and where it leaves what it made.
	CAAMKeygen, CAAMFolder string
	// DCPTool is Pantavisor's x--pv-dcp-tool; DCPBlob its dcp-blob-create.
	DCPTool, DCPBlob string
}

func (t *Tools) fill() {
	for _, f := range []struct {
		to  *string
		def string
	}{
		{&t.TrustedType, "trusted"}, {&t.NewTrusted, "new 32"}, {&t.LoadTrusted, "load "}, {&t.CAAMKeygen, "caam-keygen"},
		{&t.CAAMFolder, "/data/caam"}, {&t.DCPTool, "x--pv-dcp-tool"}, {&t.DCPBlob, "dcp-blob-create"},
	} {
		if *f.to == "" {
			*f.to = f.def
		}
	}
}

// Sizes of keys in bytes. A tagged key of CAAM is 16 bytes of key in a black blob, with
// its header.
const (
	keySize    = 32
	taggedSize = 36
)

// logonPrefix begins the description of every key, as Pantavisor has it; logon keys must
// have one.
const logonPrefix = "logkey:"

// ciphers by type and mode, as dmsetup has them.
func (d Disk) cipher() string {
	switch {
	case d.Type == Versatile:
		return "aes-cbc-essiv:sha256"
	case d.Type == CAAM && d.Mode == NXP:
		return "capi:tk(cbc(aes))-plain"
	case d.Type == CAAM:
		return "capi:cbc(aes)-plain64"
	}
	return "capi:cbc(aes)-essiv:sha256" // dcp
}

// file is a file in the disk's folder that begins with the key's name.
func (d Disk) file(suffix string) string { return filepath.Join(d.Dir, d.Key+suffix) }

// The files that keys come from.
const (
	rawSuffix     = ".txt"
	blobSuffix    = ".bb"
	pendingSuffix = ".bb.pending"
	tempSuffix    = ".tmp"
)

// keyFile is the file that the disk's key is made as.
func (d Disk) keyFile() string {
	switch {
	case d.Type == Versatile:
		return d.file(rawSuffix)
	case d.Type == DCP && d.Mode == NXP:
		return d.file("")
	}
	return d.file(blobSuffix)
}

// ensureKey makes the key when there is none. Beside an image it never does.
func (s *Set) ensureKey(ctx context.Context, d Disk, haveImage bool) error {
	have, err := isFile(d.keyFile())
	if err != nil || have {
		return err
	}
	if d.Type == DCP && d.Mode == Mainline {
		if old, err := isFile(d.file("")); err != nil || old {
			return err // the vendor's key, which is used or turned into a trusted one
		}
	}
	if haveImage {
		return fmt.Errorf("%w: %s; without it the image %s cannot be opened, and it is not formatted anew", ErrKeyMissing, d.keyFile(), d.ImagePath())
	}
	content, err := s.newKey(ctx, d)
	defer clear(content)
	if err != nil {
		return err
	}
	return writeKey(d.keyFile(), content)
}

// newKey makes the content of a key file.
func (s *Set) newKey(ctx context.Context, d Disk) ([]byte, error) {
	t := s.cfg.Tools
	switch {
	case d.Type == Versatile:
		raw := make([]byte, keySize)
		_, _ = rand.Read(raw) // it ends the program rather than fail
		return raw, nil
	case d.Mode == Mainline:
		return crypt.NewKernelKey(crypt.KernelKey{Type: t.TrustedType, Description: logonPrefix + d.Key, Payload: []byte(t.NewTrusted)})
	case d.Type == CAAM:
		if _, err := s.run(ctx, d, nil, t.CAAMKeygen, "create", d.Key, "ecb", "-s", "16"); err != nil {
			return nil, err
		}
		defer os.Remove(filepath.Join(t.CAAMFolder, d.Key))
		return os.ReadFile(filepath.Join(t.CAAMFolder, d.Key+blobSuffix))
	}
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw)
	defer clear(raw)
	made := d.file(".new")
	defer os.Remove(made)
	if _, err := s.run(ctx, d, raw, t.DCPTool, "encrypt", made); err != nil {
		return nil, err
	}
	return os.ReadFile(made)
}

// writeKey makes a key file: temporary, synced, renamed.
func writeKey(name string, content []byte) error {
	if len(content) == 0 {
		return fmt.Errorf("%w: %s would be empty", ErrBadKey, name)
	}
	tmp := name + tempSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(tmp)))
	}
	return syncDir(filepath.Dir(name))
}

// plain is the disk's device. Its key comes from the disk's own key file.
func (s *Set) plain(d Disk) *crypt.PlainDevice { return s.plainFrom(d, s.source(d)) }

// source is the file that a disk's key comes from now.
func (s *Set) source(d Disk) string {
	if d.Type == DCP && d.Mode == Mainline {
		if _, err := os.Lstat(d.file(blobSuffix)); err != nil {
			if _, err := os.Lstat(d.file("")); err == nil {
				return d.file("")
			}
		}
	}
	return d.keyFile()
}

func (s *Set) plainFrom(d Disk, keyFile string) *crypt.PlainDevice {
	options, _ := crypt.ParseMountOptions(d.Options) // checked when the file was read
	return &crypt.PlainDevice{
		ImagePath: d.ImagePath(), Name: d.Name, Cipher: d.cipher(), Options: options, FsType: d.Format, Log: s.cfg.Log,
		Key: func(ctx context.Context) (crypt.KernelKey, error) { return s.loadKey(ctx, d, keyFile) },
	}
}

// loadKey makes the kernel's key of a key file.
func (s *Set) loadKey(ctx context.Context, d Disk, keyFile string) (crypt.KernelKey, error) {
	t := s.cfg.Tools
	key := crypt.KernelKey{Type: "logon", Description: logonPrefix + d.Key, Size: keySize}
	have, err := isFile(keyFile)
	if err == nil && !have {
		err = fmt.Errorf("%w: %s", ErrKeyMissing, keyFile)
	}
	if err != nil {
		return crypt.KernelKey{}, err
	}
	switch {
	case d.Type == Versatile:
		key.Payload, err = os.ReadFile(keyFile)
	case d.Type == CAAM && d.Mode == NXP:
		key.Size = taggedSize
		key.Payload, err = s.importCAAM(ctx, d)
	case keyFile == d.file(""): // of the vendor's kernel, dcp
		key.Payload, err = s.run(ctx, d, nil, t.DCPTool, "decrypt", keyFile)
	default:
		var blob []byte
		if blob, err = os.ReadFile(keyFile); err == nil {
			blob, _, _ = bytes.Cut(bytes.TrimSpace(blob), []byte("\n"))
			if !isBlob(string(blob), t.TrustedType) {
				return crypt.KernelKey{}, fmt.Errorf("%w: %s is no blob in hex", ErrBadKey, keyFile)
			}
			key.Type, key.Payload = t.TrustedType, append([]byte(t.LoadTrusted), blob...)
			return key, nil
		}
	}
	if err != nil {
		return crypt.KernelKey{}, err
	}
	if len(key.Payload) < key.Size {
		clear(key.Payload)
		return crypt.KernelKey{}, fmt.Errorf("%w: %s gives %d bytes, %d are needed", ErrBadKey, keyFile, len(key.Payload), key.Size)
	}
	// cryptsetup reads as many as it needs.
	clear(key.Payload[key.Size:])
	key.Payload = key.Payload[:key.Size]
	return key, nil
}

// isBlob says whether a line is what the kernel gave for a key: hex for trusted keys; the
// blobs of encrypted ones begin with words.
func isBlob(line, keyType string) bool {
	if line == "" || len(line) > 4096 {
		return false
	}
	if keyType != "trusted" {
		return !strings.ContainsAny(line, "\x00\r\n")
	}
	_, err := hex.DecodeString(line)
	return err == nil
}

// importCAAM has NXP's program turn a black blob into a tagged key.
func (s *Set) importCAAM(ctx context.Context, d Disk) ([]byte, error) {
	t := s.cfg.Tools
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
	if _, err := s.run(ctx, d, nil, t.CAAMKeygen, "import", d.Key+blobSuffix, imported); err != nil {
		return nil, err
	}
	defer os.Remove(filepath.Join(t.CAAMFolder, imported))
	return os.ReadFile(filepath.Join(t.CAAMFolder, imported))
}

// run runs a key tool in the disk's folder. Keys go by its pipes.
func (s *Set) run(ctx context.Context, d Disk, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = d.Dir
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		clear(out)
		return nil, fmt.Errorf("%w: %s: %w: %s", ErrTool, strings.Join(append([]string{name}, args...), " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// mountPlain mounts a disk of plain dm-crypt. A vendor's key that is to become a trusted
// one does so here: the new blob is pending until the disk was mounted with it.
func (s *Set) mountPlain(ctx context.Context, d Disk, at string) error {
	if !d.MigrateKey || s.source(d) != d.file("") {
		return s.plain(d).Get(ctx, at)
	}
	if number, err := s.plain(d).Opened(); err != nil || number != 0 {
		return errors.Join(err, s.plain(d).Get(ctx, at)) // open: nothing would prove the blob
	}
	pending := d.file(pendingSuffix)
	if err := s.migrate(ctx, d, pending); err != nil {
		return fmt.Errorf("disk %s: turn its key into a trusted key: %w", d.Name, err)
	}
	if err := s.step(d, "pending"); err != nil {
		return err
	}
	if err := s.plainFrom(d, pending).Get(ctx, at); err != nil {
		return errors.Join(fmt.Errorf("with the new trusted key: %w", err), os.Remove(pending))
	}
	if err := os.Rename(pending, d.file(blobSuffix)); err != nil {
		return err
	}
	s.cfg.Log.InfoContext(ctx, "a disk has a trusted key now; the vendor's key file is not needed any more", "disk", d.Name, "old", d.file(""))
	return syncDir(d.Dir)
}

func (s *Set) migrate(ctx context.Context, d Disk, pending string) error {
	raw, err := s.run(ctx, d, nil, s.cfg.Tools.DCPTool, "decrypt", d.file(""))
	defer clear(raw)
	if err != nil {
		return err
	}
	blob, err := s.run(ctx, d, raw, s.cfg.Tools.DCPBlob)
	defer clear(blob)
	if err != nil {
		return err
	}
	return writeKey(pending, blob)
}
