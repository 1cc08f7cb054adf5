package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
)

// layerKind is the kind in the key derivation of layers; layer.Reader.Passphrase has
// the same, which TestLayerImages holds against it.
const layerKind = "layer"

// image is one layer's image, for a rotation of the tier key.
type image struct {
	id   string // of the layer
	path string
	// leftover: beside a record that says "fresh", so of an import that was never
	// answered for. It is erased when its layer is next needed, and may be broken.
	leftover bool
	// wrap, when set, comes between the image's file and what writes to it: tests
	// break off there.
	wrap func(luks2.File) luks2.File
}

// Title implements keys.Image.
func (im *image) Title() string { return "layer " + im.id }

// Opens implements keys.Image.
func (im *image) Opens(_ context.Context, key *keys.TierKey) (err error) {
	f, err := os.Open(im.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil {
		return im.unlessLeftover(err)
	}
	pass, err := key.Passphrase(layerKind, im.id, h.UUID())
	if err != nil {
		return err
	}
	defer clear(pass)
	volumeKey, _, err := h.Unlock(f, pass)
	clear(volumeKey)
	return im.unlessLeftover(err)
}

// Exchange implements keys.Image.
func (im *image) Exchange(_ context.Context, old, next *keys.TierKey) (err error) {
	f, err := os.OpenFile(im.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var file luks2.File = f
	if im.wrap != nil {
		file = im.wrap(f)
	}
	h, err := luks2.Read(file)
	if err != nil {
		return im.unlessLeftover(err)
	}
	oldPass, err := old.Passphrase(layerKind, im.id, h.UUID())
	if err != nil {
		return err
	}
	defer clear(oldPass)
	nextPass, err := next.Passphrase(layerKind, im.id, h.UUID())
	if err != nil {
		return err
	}
	defer clear(nextPass)
	// A copy that a crash tore is mended first: with one sound copy, the next crash
	// could take the last.
	if h.NeedsRepair() {
		if err := luks2.Repair(file); err != nil {
			return err
		}
	}
	return im.unlessLeftover(luks2.Exchange(file, oldPass, nextPass, luks2.RandomKeyKDF()))
}

// unlessLeftover passes over what is wrong with an image that nobody relies on.
func (im *image) unlessLeftover(err error) error {
	if im.leftover && (errors.Is(err, luks2.ErrNoKey) || errors.Is(err, luks2.ErrDamaged) || errors.Is(err, luks2.ErrNotLUKS2)) {
		return nil
	}
	return err
}

// tierImages lists the images of a tier, layers today. It refuses a tier that holds LUKS
// images of other kinds: a rotation would leave them without a key.
func (a *app) tierImages(t persist.Tier) (_ []*image, err error) {
	root := a.layout().Layers(t)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	r, err := layer.OpenReader(root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var images []*image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // the lock, and garbage that the next start of the plugin erases
		}
		im := &image{id: e.Name(), path: filepath.Join(root, e.Name(), layer.ImageName)}
		switch _, err := os.Lstat(im.path); {
		case errors.Is(err, fs.ErrNotExist):
			continue // fresh
		case err != nil:
			return nil, fmt.Errorf("list the layers: %w", err)
		}
		// A record that cannot be read may be mended one day: its image counts.
		rec, err := r.Get(im.id)
		im.leftover = err == nil && rec.Kind == layer.Fresh
		images = append(images, im)
	}
	return images, a.refuseOthers(t)
}

// luksMagic begins every LUKS image.
var luksMagic = []byte("LUKS\xba\xbe")

// errOtherImages: images that this layervault cannot rotate.
var errOtherImages = errors.New("images of a kind that this layervault does not rotate")

func (a *app) refuseOthers(t persist.Tier) error {
	layers := a.layout().Layers(t)
	err := filepath.WalkDir(a.layout().Tier(t), func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // went away meanwhile
		case err != nil:
			return err
		case path == layers:
			return fs.SkipDir
		case !e.Type().IsRegular():
			return nil
		}
		is, err := isLUKS(path)
		if is {
			return fmt.Errorf("%w: %s; move it away or use the version that made it", errOtherImages, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look for images: %w", err)
	}
	return nil
}

func isLUKS(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, len(luksMagic))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(head, luksMagic), nil
}

// lockTier takes the lock of the store's owner (layer.Open), so that no plugin serves
// the tier or begins to. A plugin must not run beside a rotation: it holds the old key
// in memory, with which it would fail on images that are done, and make new ones.
func (a *app) lockTier(t persist.Tier) (unlock func() error, err error) {
	root := a.layout().Layers(t)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: a plugin serves %s; stop it first (docker plugin disable layervault)", layer.ErrBusy, root)
		}
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	return f.Close, nil
}
