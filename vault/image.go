package vault

import (
	"context"
	"errors"
	"os"
	"slices"

	"layervault/crypt/luks2"
	"layervault/keys"
)

// Image is the LUKS2 image of a layer, a volume, an area or a disk.
type Image struct {
	Kind, ID string // in the key derivation
	Path     string
	// Unused: its record says "fresh", so the image is of an import that broke off. It is
	// erased when its layer is next needed, and may be broken. vouched says whether the
	// record was written with a key.
	Unused  bool
	vouched func(key *keys.TierKey) error
	wrap    func(luks2.File) luks2.File // Contents.Wrap
}

// Title implements keys.Image. It names the image in messages.
func (im *Image) Title() string { return im.Kind + " " + im.ID }

// owner is what the image is, for its header.
func (im *Image) owner() luks2.Owner { return luks2.Owner{Kind: im.Kind, ID: im.ID} }

// passphrases derives the passphrases of images.
type passphrases interface {
	Passphrase(format int, kind, id, imageUUID string) ([]byte, error)
}

// read reads the image's format. With keys the image must open, and its header be theirs.
func (im *Image) read(ctx context.Context, keys passphrases) (version int, err error) {
	f, err := os.Open(im.Path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := luks2.Read(f)
	if err != nil || keys == nil {
		return formatOf(h), err
	}
	if err := h.CheckOwn(); err != nil {
		return 0, err
	}
	passphrase, err := keys.Passphrase(h.Format(), im.Kind, im.ID, h.UUID())
	if err != nil {
		return 0, err
	}
	defer clear(passphrase)
	key, _, err := h.UnlockOwn(ctx, f, passphrase)
	clear(key)
	if err == nil && h.Format() == format {
		err = h.Authentic(im.owner(), passphrase)
	}
	return h.Format(), err
}

func formatOf(h *luks2.Header) int {
	if h == nil {
		return 0
	}
	return h.Format()
}

// Opens implements keys.Image.
func (im *Image) Opens(ctx context.Context, key *keys.TierKey) error {
	_, err := im.read(ctx, key)
	return im.unlessUnused(err, key)
}

// Exchange implements keys.Image. The image keeps its format.
func (im *Image) Exchange(ctx context.Context, old, next *keys.TierKey) (err error) {
	opened, err := os.OpenFile(im.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	var file luks2.File = opened
	if im.wrap != nil {
		file = im.wrap(opened)
	}
	return im.unlessUnused(im.exchange(ctx, file, old, next), old, next)
}

func (im *Image) exchange(ctx context.Context, file luks2.File, old, next *keys.TierKey) error {
	h, err := luks2.Read(file)
	if err != nil {
		return err
	}
	if err := h.CheckOwn(); err != nil {
		return err
	}
	from, err := old.Passphrase(h.Format(), im.Kind, im.ID, h.UUID())
	if err != nil {
		return err
	}
	defer clear(from)
	to, err := next.Passphrase(h.Format(), im.Kind, im.ID, h.UUID())
	if err != nil {
		return err
	}
	defer clear(to)
	return luks2.Exchange(ctx, file, im.owner(), from, to, luks2.RandomKeyKDF())
}

// unlessUnused passes over what is wrong with an unused image, as its record says with one
// of the keys. A record that no key vouches for is not believed: a rotation would
// take the key from an image for ever.
func (im *Image) unlessUnused(err error, by ...*keys.TierKey) error {
	believed := im.vouched == nil || slices.ContainsFunc(by, func(key *keys.TierKey) bool { return im.vouched(key) == nil })
	if !im.Unused || !believed {
		return err
	}
	for _, broken := range []error{luks2.ErrNoKey, luks2.ErrDamaged, luks2.ErrNotLUKS2, luks2.ErrNotAuthentic, luks2.ErrForbidden, luks2.ErrTooCostly} {
		if errors.Is(err, broken) {
			return nil
		}
	}
	return err
}
