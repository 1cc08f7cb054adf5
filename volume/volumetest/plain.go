// Package volumetest lets volumes be tested where the kernel has no device-mapper: its
// images have a real LUKS2 header, which opens with the volume's passphrase and no other,
// but their ext4 is not encrypted. Never use it for data.
package volumetest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/loop"
	"layervault/crypt/luks2"
	"layervault/persist"
	"layervault/volume"
)

// Keys are the keys of an open tier that anyone could derive. The floor is the newest
// format.
type Keys struct {
	// Old accepts format 1 too, as a tier does that was not upgraded.
	Old bool
	// Other makes it another tier.
	Other string
}

// MAC implements crypt.KeySource.
func (k Keys) MAC(what string, data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("volumetest "+k.Other+what))
	_, _ = mac.Write(data) // never fails
	return mac.Sum(nil), nil
}

// Floor implements crypt.KeySource.
func (k Keys) Floor() int {
	if k.Old {
		return 1
	}
	return 2
}

// Passphrase implements crypt.KeySource.
func (k Keys) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	return fmt.Appendf(nil, "%s%d %s %s %s", k.Other, format, kind, id, imageUUID), nil
}

// OpenKeys opens every tier.
func OpenKeys(context.Context, persist.Tier) (crypt.KeySource, error) { return Keys{}, nil }

// Devices makes devices without encryption; keys opens the tiers.
func Devices(keys func(context.Context, persist.Tier) (crypt.KeySource, error)) volume.Devices {
	return func(im volume.Image) volume.Device { return &plain{im, keys} }
}

type plain struct {
	im   volume.Image
	keys func(context.Context, persist.Tier) (crypt.KeySource, error)
}

func (p *plain) passphrase(ctx context.Context, format int, uuid string) ([]byte, error) {
	keys, err := p.keys(ctx, p.im.Tier)
	if err != nil {
		return nil, err
	}
	if err := crypt.CheckFormat(format, keys.Floor()); err != nil {
		return nil, err
	}
	return keys.Passphrase(format, crypt.KindVolume, p.im.ID.String(), uuid)
}

func (p *plain) owner() *luks2.Owner {
	return &luks2.Owner{Kind: crypt.KindVolume, ID: p.im.ID.String()}
}

// Upgrade implements volume.Device.
func (p *plain) Upgrade(ctx context.Context) (err error) {
	f, err := os.OpenFile(p.im.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil {
		return err
	}
	old, err := p.passphrase(ctx, luks2.Format1, h.UUID())
	if err != nil {
		return err
	}
	next, err := p.passphrase(ctx, luks2.Format2, h.UUID())
	if err != nil {
		return err
	}
	return luks2.Upgrade(ctx, f, *p.owner(), old, next, luks2.RandomKeyKDF())
}

func (p *plain) Create(ctx context.Context, size int64) (err error) {
	if _, err := os.Lstat(p.im.Path); err == nil {
		return fmt.Errorf("%s: %w", p.im.Path, crypt.ErrExists)
	}
	f, err := os.CreateTemp(filepath.Dir(p.im.Path), "."+filepath.Base(p.im.Path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	id := uuid.NewString()
	keys, err := p.keys(ctx, p.im.Tier)
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	// As the program of its time made it, in a tier that was not upgraded.
	format, owner := luks2.Format2, p.owner()
	if keys.Floor() == luks2.Format1 {
		format, owner = luks2.Format1, nil
	}
	pass, err := p.passphrase(ctx, format, id)
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	_, key, err := luks2.Format(f, luks2.Params{UUID: id, Owner: owner, Tokens: []json.RawMessage{p.im.Token}}, luks2.RandomKeyKDF(), pass)
	if err != nil {
		return err
	}
	clear(key)
	if err := f.Truncate(luks2.DefaultDataOffset + size); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "volumetest")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Mkdir(filepath.Join(dir, crypt.DirDiff), 0o755); err != nil {
		return err
	}
	inodes := p.im.Inodes
	if inodes == 0 {
		inodes = size >> 12 // as small volumes have them
	}
	if err := run(ctx, "mkfs.ext4", "-N", strconv.FormatInt(inodes, 10), "-q", "-F", "-m", "0", "-b", "4096", "-O", "^resize_inode,meta_bg", "-J", "size=4", "-d", dir, "-E",
		"offset="+strconv.Itoa(luks2.DefaultDataOffset)+",root_owner=0:0", f.Name(), strconv.FormatInt(size>>10, 10)+"k"); err != nil {
		return err
	}
	return os.Rename(f.Name(), p.im.Path)
}

// attached finds the loop device over the image.
func (p *plain) attached() (name string, number int, err error) {
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
		if err == nil && strings.TrimSpace(string(text)) == p.im.Path {
			n, err := strconv.Atoi(number)
			return e.Name(), n, err
		}
	}
	return "", 0, nil
}

func (p *plain) Mount(ctx context.Context, at string) error {
	f, err := os.Open(p.im.Path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", p.im.Path, crypt.ErrNotExist)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	name, _, err := p.attached()
	if err != nil {
		return err
	}
	if name != "" {
		return unix.Mount("/dev/"+name, at, "ext4", p.im.Options.Flags, p.im.Options.Data)
	}
	h, err := luks2.Read(f)
	if err != nil {
		return err
	}
	pass, err := p.passphrase(ctx, h.Format(), h.UUID())
	if err != nil {
		return err
	}
	if h.Format() != luks2.Format1 {
		if err := h.Authentic(*p.owner(), pass); err != nil {
			return err
		}
	}
	key, _, err := h.UnlockOwn(ctx, f, pass)
	if err != nil {
		return err
	}
	clear(key)
	if err := run(ctx, "mount", "-t", "ext4", "-o", "discard,loop,offset="+strconv.Itoa(luks2.DefaultDataOffset), p.im.Path, at); err != nil {
		return err
	}
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|p.im.Options.Flags, "")
}

func (p *plain) Grow(_ context.Context, at string, size int64) error {
	have, err := p.Size()
	if err != nil {
		return err
	}
	if size < have {
		return fmt.Errorf("%w: it has %d bytes already", crypt.ErrBadParams, have)
	}
	if err := os.Truncate(p.im.Path, luks2.DefaultDataOffset+size); err != nil {
		return err
	}
	_, n, err := p.attached()
	if err != nil {
		return err
	}
	if err := loop.Refresh(n); err != nil {
		return err
	}
	return ext4.Grow(at, size)
}

func (p *plain) Remove(context.Context) error {
	f, err := os.OpenFile(p.im.Path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = luks2.Erase(f)
	if errors.Is(err, luks2.ErrNotLUKS2) {
		err = nil // nothing is left to destroy
	}
	return errors.Join(err, f.Close(), os.Remove(p.im.Path))
}

func (p *plain) Size() (int64, error) {
	info, err := os.Stat(p.im.Path)
	if err != nil {
		return 0, err
	}
	return info.Size() - luks2.DefaultDataOffset, nil
}

func (p *plain) Opened() (uint64, error) {
	name, n, err := p.attached()
	if name == "" || err != nil {
		return 0, err
	}
	return unix.Mkdev(loop.Major, uint32(n)), nil
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
