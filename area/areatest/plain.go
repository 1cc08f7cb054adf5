// Package areatest lets areas be tested where the kernel has no device-mapper: its images have a
// real LUKS2 header, which opens with the area's passphrase and no other, but their ext4 is not
// encrypted. Never use it for data.
package areatest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/crypt"
	"layervault/crypt/loop"
	"layervault/crypt/luks2"
	"layervault/persist"
)

// Keys are the keys of an open tier that anyone could derive.
type Keys struct{ Other string } // Other makes it another tier

// MAC implements crypt.KeySource.
func (k Keys) MAC(what string, data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("areatest "+k.Other+what))
	_, _ = mac.Write(data) // never fails
	return mac.Sum(nil), nil
}

// Floor implements crypt.KeySource.
func (Keys) Floor() int { return luks2.Format2 }

// Passphrase implements crypt.KeySource.
func (k Keys) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	return fmt.Appendf(nil, "%s%d %s %s %s", k.Other, format, kind, id, imageUUID), nil
}

// OpenKeys opens every tier.
func OpenKeys(context.Context, persist.Tier) (crypt.KeySource, error) { return Keys{}, nil }

// Dir makes a folder for a layout, which agents may pass, with the folder of the images in it.
// The mount points in it can be removed at the end.
func Dir(t testing.TB) persist.Layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "areas")
	if err != nil {
		t.Fatal(err)
	}
	l := persist.Layout{Root: dir}
	t.Cleanup(func() {
		for _, a := range persist.Areas {
			for unix.Unmount(l.Area(a), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
			}
			_ = area.Unseal(l.Area(a))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []string{l.Root, l.Tier(persist.Vault), l.AreaImages(persist.Vault)} {
		if err := errors.Join(os.MkdirAll(d, 0o711), os.Chmod(d, 0o711)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// Devices makes devices without encryption; keys opens the tiers.
func Devices(l persist.Layout, keys func(context.Context, persist.Tier) (crypt.KeySource, error)) area.Devices {
	return func(a persist.Area) area.Device {
		return &plain{&crypt.Image{
			Path: l.AreaImage(a), Owner: area.Owner(a),
			Key: crypt.KeyFrom(func(ctx context.Context) (crypt.KeySource, error) { return keys(ctx, persist.Vault) }, area.Owner(a)),
		}}
	}
}

type plain struct{ *crypt.Image }

func (p *plain) Create(ctx context.Context, size int64) (err error) {
	if _, err := os.Lstat(p.Path); err == nil {
		return fmt.Errorf("%s: %w", p.Path, crypt.ErrExists)
	}
	id := uuid.NewString()
	pass, err := p.Key(ctx, luks2.Format2, id)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(p.Path), "."+filepath.Base(p.Path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, key, err := luks2.Format(f, luks2.Params{UUID: id, Owner: &p.Owner}, luks2.RandomKeyKDF(), pass)
	if err != nil {
		return err
	}
	clear(key)
	if err := f.Truncate(luks2.DefaultDataOffset + size); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "areatest")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, crypt.DirDiff), 0o755); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-O", "^resize_inode,meta_bg", "-J", "size=4", "-d", dir, "-E",
		"offset="+strconv.Itoa(luks2.DefaultDataOffset)+",root_owner=0:0", f.Name(), strconv.FormatInt(size>>10, 10)+"k"); err != nil {
		return err
	}
	return os.Rename(f.Name(), p.Path)
}

// attached finds the loop device over the image, 0 for none.
func (p *plain) attached() (name string, device uint64, err error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", 0, err
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "loop")
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/sys/block", e.Name(), "loop/backing_file"))
		if err == nil && strings.TrimSpace(string(text)) == p.Path {
			n, err := strconv.Atoi(number)
			return e.Name(), unix.Mkdev(loop.Major, uint32(n)), err
		}
	}
	return "", 0, nil
}

func (p *plain) Mount(ctx context.Context, at string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return err
	}
	pass, err := p.Key(ctx, h.Format(), h.UUID())
	if err != nil {
		return err
	}
	if err := h.Authentic(p.Owner, pass); err != nil {
		return err
	}
	key, _, err := h.UnlockOwn(ctx, f, pass)
	if err != nil {
		return err
	}
	clear(key)
	if name, _, err := p.attached(); name != "" || err != nil {
		return errors.Join(err, unix.Mount("/dev/"+name, at, "ext4", flags, "discard"))
	}
	return run(ctx, "mount", "-t", "ext4", "-o", "nosuid,nodev,noexec,discard,loop,offset="+strconv.Itoa(luks2.DefaultDataOffset), p.Path, at)
}

func (p *plain) Opened() (uint64, error) {
	_, device, err := p.attached()
	return device, err
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
