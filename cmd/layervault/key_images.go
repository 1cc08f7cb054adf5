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
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/internal/flock"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// layerKind is the kind in the key derivation of layers; layer.Reader.Passphrase has
// the same, which TestLayerImages holds against it.
const layerKind = "layer"

// image is the image of a layer, a volume or a disk, for a rotation of the tier key.
type image struct {
	kind string // in the key derivation
	id   string // in the key derivation: of the layer, volume or disk
	path string
	// leftover: beside a record that says "fresh", so of an import that was never
	// answered for. It is erased when its layer is next needed, and may be broken. Whether
	// the record is to be believed says vouched.
	leftover bool
	vouched  func(key *keys.TierKey) error
	// wrap, when set, comes between the image's file and what writes to it: tests
	// break off there.
	wrap func(luks2.File) luks2.File
}

// Title implements keys.Image.
func (im *image) Title() string { return im.kind + " " + im.id }

// Opens implements keys.Image.
func (im *image) Opens(ctx context.Context, key *keys.TierKey) (err error) {
	f, err := os.Open(im.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil {
		return im.unlessLeftover(err, key)
	}
	pass, err := key.Passphrase(h.Format(), im.kind, im.id, h.UUID())
	if err != nil {
		return err
	}
	defer clear(pass)
	if err := h.CheckOwn(); err != nil {
		return im.unlessLeftover(err, key)
	}
	volumeKey, _, err := h.UnlockOwn(ctx, f, pass)
	clear(volumeKey)
	if err == nil && h.Format() == luks2.Format2 {
		err = h.Authentic(im.owner(), pass)
	}
	return im.unlessLeftover(err, key)
}

// owner is what the image is, for its header.
func (im *image) owner() luks2.Owner { return luks2.Owner{Kind: im.kind, ID: im.id} }

// Exchange implements keys.Image. The image keeps its format.
func (im *image) Exchange(ctx context.Context, old, next *keys.TierKey) error {
	return im.change([]*keys.TierKey{old, next}, func(file luks2.File, h *luks2.Header) error {
		if err := h.CheckOwn(); err != nil {
			return err
		}
		return im.withPassphrases(h, passphraseOf{old, h.Format()}, passphraseOf{next, h.Format()}, func(from, to []byte) error {
			return luks2.Exchange(ctx, file, im.owner(), from, to, luks2.RandomKeyKDF())
		})
	})
}

// Upgrade makes the image one of format 2. It is durable when it returns, repeatable when
// it was cut short at any point, and leaves an image that opens at all times. One that is of
// format 2 is not written to.
func (im *image) Upgrade(ctx context.Context, key *keys.TierKey) error {
	return im.change([]*keys.TierKey{key}, func(file luks2.File, h *luks2.Header) error {
		return im.withPassphrases(h, passphraseOf{key, luks2.Format1}, passphraseOf{key, luks2.Format2}, func(from, to []byte) error {
			return luks2.Upgrade(ctx, file, im.owner(), from, to, luks2.RandomKeyKDF())
		})
	})
}

// passphraseOf says how an image's passphrase is derived.
type passphraseOf struct {
	key    *keys.TierKey
	format int
}

func (im *image) withPassphrases(h *luks2.Header, from, to passphraseOf, f func(from, to []byte) error) error {
	var pass [2][]byte
	for i, p := range []passphraseOf{from, to} {
		one, err := p.key.Passphrase(p.format, im.kind, im.id, h.UUID())
		if err != nil {
			return err
		}
		defer clear(one)
		pass[i] = one
	}
	return f(pass[0], pass[1])
}

// change opens the image's file for a change. Its record may be of any of the keys.
func (im *image) change(by []*keys.TierKey, f func(file luks2.File, h *luks2.Header) error) (err error) {
	opened, err := os.OpenFile(im.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	var file luks2.File = opened
	if im.wrap != nil {
		file = im.wrap(opened)
	}
	h, err := luks2.Read(file)
	if err == nil {
		err = f(file, h)
	}
	return im.unlessLeftover(err, by...)
}

// unlessLeftover passes over what is wrong with an image that nobody relies on, as its
// record says with one of the keys: a rotation would take the key from an image for ever.
func (im *image) unlessLeftover(err error, by ...*keys.TierKey) error {
	believed := im.vouched == nil || slices.ContainsFunc(by, func(key *keys.TierKey) bool { return im.vouched(key) == nil })
	if !im.leftover || !believed {
		return err
	}
	for _, broken := range []error{luks2.ErrNoKey, luks2.ErrDamaged, luks2.ErrNotLUKS2, luks2.ErrNotAuthentic, luks2.ErrForbidden, luks2.ErrTooCostly} {
		if errors.Is(err, broken) {
			return nil
		}
	}
	return err
}

// tierImages lists the images of a tier: layers, volumes, and disks of type luks. It
// refuses a tier that holds LUKS images of other kinds: a rotation would leave them
// without a key.
func (a *app) tierImages(t persist.Tier) (_ []*image, err error) {
	images, err := a.knownImages(t)
	if err != nil {
		return nil, err
	}
	return images, a.refuseOthers(t, images)
}

// knownImages is tierImages for whoever takes no image's key.
func (a *app) knownImages(t persist.Tier) (_ []*image, err error) {
	images, err := a.layerImages(t)
	if err != nil {
		return nil, err
	}
	for kind, dir := range map[string]string{volume.KeyKind: a.layout().Volumes(t), disk.KeyKind: a.layout().Disks(t)} {
		more, err := namedImages(kind, dir)
		if err != nil {
			return nil, err
		}
		images = append(images, more...)
	}
	// In the same order each time, for whoever watches.
	slices.SortFunc(images, func(a, b *image) int { return strings.Compare(a.Title(), b.Title()) })
	return images, nil
}

func (a *app) layerImages(t persist.Tier) (_ []*image, err error) {
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
		im := &image{kind: layerKind, id: e.Name(), path: filepath.Join(root, e.Name(), layer.ImageName)}
		switch _, err := os.Lstat(im.path); {
		case errors.Is(err, fs.ErrNotExist):
			continue // fresh
		case err != nil:
			return nil, fmt.Errorf("list the layers: %w", err)
		}
		// A record that cannot be read may be mended one day: its image counts.
		rec, err := r.Get(im.id)
		im.leftover = err == nil && rec.Kind == layer.Fresh
		im.vouched = func(key *keys.TierKey) error { return layer.CheckRecord(root, im.id, key) }
		images = append(images, im)
	}
	return images, nil
}

// namedImages lists the LUKS images in a folder whose names are part of their keys.
func namedImages(kind, dir string) ([]*image, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the images: %w", err)
	}
	var images []*image
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.Type().IsRegular() {
			continue // the lock, and garbage that is erased when volumes are next used
		}
		if kind == volume.KeyKind && persist.IsEVEName(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		_, err := volume.ParseID(e.Name())
		is := err == nil && kind == volume.KeyKind
		if !is {
			if is, err = isLUKS(path); err != nil {
				return nil, fmt.Errorf("list the images: %w", err)
			}
			// In the folder of volumes a stranger is refused: it has no key of ours.
			is = is && kind != volume.KeyKind
		}
		if is {
			images = append(images, &image{kind: kind, id: e.Name(), path: path})
		}
	}
	return images, nil
}

// luksMagic begins every LUKS image.
var luksMagic = []byte("LUKS\xba\xbe")

// errOtherImages: images that this layervault cannot rotate.
var errOtherImages = errors.New("images of a kind that this layervault does not rotate")

// refuseOthers looks for images that are not among the known ones.
func (a *app) refuseOthers(t persist.Tier, known []*image) error {
	layers := a.layout().Layers(t)
	ours := map[string]bool{}
	for _, im := range known {
		ours[im.path] = true
	}
	err := filepath.WalkDir(a.layout().Tier(t), func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // went away meanwhile
		case err != nil:
			return err
		case path == layers:
			return fs.SkipDir
		case filepath.Dir(path) == a.layout().Volumes(t) && persist.IsEVEName(e.Name()):
			// EVE's: a guest's disk may be a LUKS image itself, and a container has many files.
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !e.Type().IsRegular(), ours[path]:
			return nil
		case isTemporary(path) && (filepath.Dir(path) == a.layout().Volumes(t) || filepath.Dir(path) == a.layout().Disks(t)):
			return nil // nobody was told of it
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

// isTemporary says whether a file is an image that is being made; see crypt.SweepDir.
func isTemporary(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-")
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

// lockTier takes the lock of the layer store's owner (layer.Open), and that of everybody
// who has the tier's key for volumes (shareTier), so that no plugin serves the tier or
// begins to. A plugin must not run beside a rotation: it holds the old key in memory, with
// which it would fail on images that are done, and make new ones.
func (a *app) lockTier(t persist.Tier) (unlock func() error, err error) {
	layers, err := lockFile(filepath.Join(a.layout().Layers(t), ".lock"), flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("lock the layer store: %w", err)
	}
	volumes, err := lockFile(filepath.Join(a.layout().Volumes(t), ".lock"), flock.Exclusive)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the volumes: %w", err), layers.Close())
	}
	return func() error { return errors.Join(layers.Close(), volumes.Close()) }, nil
}

// shareTier keeps a rotation off while somebody has the tier's key for volumes.
func (a *app) shareTier(t persist.Tier) (unlock func() error, err error) {
	f, err := lockFile(filepath.Join(a.layout().Volumes(t), ".lock"), flock.Shared)
	if err != nil {
		return nil, fmt.Errorf("use the volumes of %s: %w", t, err)
	}
	if f == nil {
		return func() error { return nil }, nil
	}
	return f.Close, nil
}

func openLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// lockFile locks a file that it makes. It does not wait. The file is nil where nothing can be
// written and nothing needs a lock.
func lockFile(path string, how flock.Mode) (*os.File, error) {
	f, err := openLock(path)
	if errors.Is(err, unix.EROFS) && how == flock.Shared {
		// Whoever only reads, on a disk that cannot be written, takes the lock of a file that
		// is there: the disk may be mounted for writing elsewhere. Where there is none, nobody
		// ever rotated the key, and through this mount nobody can.
		if f, err = os.Open(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if err := flock.TryLock(f, how); err != nil {
		_ = f.Close()
		if errors.Is(err, flock.ErrHeld) && how == flock.Shared {
			return nil, fmt.Errorf("%w: the tier key is being rotated; try again", layer.ErrBusy)
		}
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: a plugin serves %s; stop it first (docker plugin disable layervault)", layer.ErrBusy, filepath.Dir(path))
		}
		return nil, err
	}
	return f, nil
}
