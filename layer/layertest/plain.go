// Package layertest lets the layer store and the graph driver be tested where
// the kernel has no device-mapper: its images are as real as package crypt's, LUKS2
// header included, but their file system is not encrypted. A layer that is sealed anew becomes an
// EROFS of package crypt's writer, all others have ext4 from mkfs. Never use it for data.
package layertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/go-archive"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/layer"
)

// sealedSize is the length of a sealed image's file system: sparse, and more than
// any test puts into one.
const sealedSize = 512 << 20

// passphrase is on every header; nothing is encrypted with it.
var passphrase = []byte("layertest")

// Devices makes devices without encryption.
func Devices(im layer.Image) layer.Device { return plain{im} }

type plain struct{ im layer.Image }

func (p plain) CreateHeld(ctx context.Context, size int64) (layer.Held, error) {
	if _, err := p.make(ctx, size, nil); err != nil {
		return nil, err
	}
	return p.Hold("")
}

func (p plain) Import(ctx context.Context, diffTar io.Reader) (crypt.ImportResult, error) {
	if p.im.Literal {
		return p.importLiterally(ctx, diffTar)
	}
	return p.make(ctx, sealedSize, diffTar)
}

func (p plain) make(ctx context.Context, size int64, diffTar io.Reader) (res crypt.ImportResult, err error) {
	if _, err := os.Lstat(p.im.Path); err == nil {
		return res, fmt.Errorf("%s: %w", p.im.Path, crypt.ErrExists)
	}
	// Beside the image, so that what a killed test leaves is swept with it.
	dir, err := os.MkdirTemp(filepath.Dir(p.im.Path), ".layertest")
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	content := filepath.Join(dir, crypt.DirDiff)
	if err := errors.Join(os.Mkdir(content, 0o755), os.Mkdir(filepath.Join(dir, crypt.DirWork), 0o700)); err != nil {
		return res, err
	}
	uid, gid := p.im.IDMap.RootPair()
	if err := os.Chown(content, uid, gid); err != nil {
		return res, err
	}
	if diffTar != nil {
		opts := &archive.TarOptions{IDMap: p.im.IDMap, WhiteoutFormat: archive.OverlayWhiteoutFormat}
		if err := archive.Unpack(diffTar, content, opts); err != nil {
			return res, err
		}
		if _, err := io.Copy(io.Discard, diffTar); err != nil {
			return res, err
		}
		if res.Size, err = sizeOf(content); err != nil {
			return res, err
		}
	}
	tmp := filepath.Join(filepath.Dir(p.im.Path), "."+filepath.Base(p.im.Path)+".tmp-layertest")
	defer func() {
		if rmErr := os.Remove(tmp); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	if res.UUID, err = format(tmp, size); err != nil {
		return res, err
	}
	offset := strconv.Itoa(luks2.DefaultDataOffset)
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal,^resize_inode", "-m", "0", "-b", "4096", "-d", dir, "-E",
		"offset="+offset+",root_owner=0:0", tmp, strconv.FormatInt(size>>10, 10)+"k"); err != nil {
		return res, err
	}
	res.Bytes = luks2.DefaultDataOffset + size
	return res, os.Rename(tmp, p.im.Path)
}

// format writes a LUKS2 header and makes room for size bytes.
func format(name string, size int64) (uuid string, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, key, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), passphrase)
	if err != nil {
		return "", err
	}
	clear(key)
	return h.UUID(), f.Truncate(luks2.DefaultDataOffset + size)
}

// Upgrade authenticates the image's header, with the passphrase that every image has.
func (p plain) Upgrade(ctx context.Context) (err error) {
	f, err := os.OpenFile(p.im.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return luks2.Upgrade(ctx, f, luks2.Owner{Kind: crypt.KindLayer, ID: p.im.Layer}, passphrase, passphrase, luks2.RandomKeyKDF())
}

// UUID reads the image's header.
func (p plain) UUID() (string, error) {
	f, err := os.Open(p.im.Path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", p.im.Path, crypt.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	h, err := luks2.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return h.UUID(), nil
}

func (p plain) Mount(ctx context.Context, at string) error {
	id, err := p.UUID()
	if err == nil {
		err = p.im.Check(id)
	}
	if err != nil {
		return err
	}
	mode := "rw"
	if p.im.Kind == layer.Sealed {
		mode = "ro"
	}
	fs, err := p.fileSystem()
	if err != nil {
		return err
	}
	return run(ctx, "mount", "-t", string(fs), "-o", mode+",loop,offset="+strconv.Itoa(luks2.DefaultDataOffset), p.im.Path, at)
}

func (p plain) Remove(context.Context) error {
	f, err := os.OpenFile(p.im.Path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(luks2.Erase(f), f.Close())
	if errors.Is(err, luks2.ErrNotLUKS2) {
		err = nil // a file that a test, or a crash, left
	}
	return errors.Join(err, os.Remove(p.im.Path))
}

func (p plain) Hold(string) (layer.Held, error) {
	f, err := os.Open(p.im.Path)
	return held{f, p}, err
}

// held only remembers the image: without device-mapper every mount has a loop device
// of its own.
type held struct {
	*os.File
	p plain
}

func (h held) Mount(at string) error {
	h.p.im.Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.Fd()) // it may have been renamed
	return h.p.Mount(context.Background(), at)
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sizeOf counts as crypt.ImportResult.Size says.
func sizeOf(dir string) (size int64, err error) {
	seen := make(map[uint64]bool)
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if ino := fi.Sys().(*syscall.Stat_t).Ino; !seen[ino] {
			seen[ino] = true
			size += fi.Size()
		}
		return nil
	})
	return size, err
}
