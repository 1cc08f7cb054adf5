package crypt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/internal/mounts"
)

// The sorts of images in these tests: Image.ReadOnly.
const (
	writable = false
	readOnly = true
)

// testImage is an image with the place that it is mounted at, and how it is made.
type testImage struct {
	crypt.Image
	mnt    string
	making crypt.Making
}

func (im *testImage) create(ctx context.Context, size int64) error {
	return im.Create(ctx, size, im.making)
}

func (im *testImage) load(ctx context.Context, diffTar io.Reader) (crypt.ImportResult, error) {
	return im.Import(ctx, diffTar, im.making)
}

func (im *testImage) get(ctx context.Context) error {
	return im.Mount(ctx, im.mnt, crypt.MountOptions{})
}

func (im *testImage) put() error { return mounts.Detach(im.mnt) }

func (im *testImage) hold() (*crypt.Held, error) { return im.Hold(im.mnt) }

func (im *testImage) grow(ctx context.Context, size int64) error {
	return im.Grow(ctx, im.mnt, size)
}

// testTier is an open tier.
type testTier struct{ floor int }

func (testTier) Passphrase(format int, kind, id, uuid string) ([]byte, error) {
	return fmt.Appendf(nil, "%d %s %s %s", format, kind, id, uuid), nil
}

func (testTier) MAC(string, []byte) ([]byte, error) { return nil, nil }

func (t testTier) Floor() int { return t.floor }

// The key of an image is that of its kind and ID, and none below the tier's floor.
func TestKeyFrom(t *testing.T) {
	key := crypt.KeyFrom(func(context.Context) (crypt.KeySource, error) { return testTier{luks2.Format2}, nil }, crypt.Owner{Kind: crypt.KindDisk, ID: "d"})
	if got, err := key(t.Context(), luks2.Format2, "u"); err != nil || string(got) != "2 disk d u" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := key(t.Context(), luks2.Format1, "u"); !errors.Is(err, crypt.ErrOldFormat) || got != nil {
		t.Errorf("below the floor: %q, %v", got, err)
	}
	locked := errors.New("locked")
	key = crypt.KeyFrom(func(context.Context) (crypt.KeySource, error) { return nil, locked }, crypt.Owner{})
	if _, err := key(t.Context(), luks2.Format2, "u"); !errors.Is(err, locked) {
		t.Errorf("locked tier: %v", err)
	}
}

// An image that lacks what it needs is refused before the disk is looked at.
func TestBadImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	for what, im := range map[string]crypt.Image{
		"no key":        {Path: path, Owner: owner},
		"no kind":       {Path: path, Owner: crypt.Owner{ID: "x"}, Key: passphrase},
		"no id":         {Path: path, Owner: crypt.Owner{Kind: crypt.KindLayer}, Key: passphrase},
		"relative path": {Path: "image", Owner: owner, Key: passphrase},
	} {
		want := crypt.ErrBadParams
		if im.Key == nil {
			want = crypt.ErrNoKeyFunc
		}
		for verb, err := range map[string]error{
			"create": im.Create(t.Context(), 32<<20, crypt.Making{}),
			"mount":  im.Mount(t.Context(), t.TempDir(), crypt.MountOptions{}),
		} {
			if !errors.Is(err, want) {
				t.Errorf("%s, %s: %v", what, verb, err)
			}
		}
	}
}
