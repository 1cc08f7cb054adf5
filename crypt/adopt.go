package crypt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"layervault/crypt/luks2"
)

// Upgrade converts a format 1 image to format 2 in place, replacing the passphrase of
// format 1 by that of format 2. It also finishes an interrupted Upgrade; a finished image
// is not written to. The image may be open. Errors are those of luks2.Upgrade.
func (im *Image) Upgrade(ctx context.Context) error {
	return im.change(ctx, func(f *os.File, h *luks2.Header) error {
		next, err := im.passphrase(ctx, luks2.Format2, h.UUID())
		if err != nil {
			return err
		}
		defer clear(next)
		old, err := im.passphrase(ctx, luks2.Format1, h.UUID())
		if err != nil {
			return err
		}
		defer clear(old)
		return luks2.Upgrade(ctx, f, im.Owner, old, next, luks2.RandomKeyKDF())
	})
}

// Changes lists the header fields that were not written with the image's key; none for
// an image that opens as it is. A forbidden header is an error, see luks2.CheckOwn:
// Adopt would reject it too. For an image without a valid token, of format 1 for
// instance, the missing token is the only change listed.
func (im *Image) Changes(ctx context.Context) ([]luks2.Change, error) {
	if err := im.check(); err != nil {
		return nil, err
	}
	f, err := im.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h, err := im.lockedHeader(ctx, f)
	if err != nil {
		return nil, err
	}
	if err := h.CheckOwn(); err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	passphrase, err := im.passphrase(ctx, luks2.Format2, h.UUID())
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	var changed *luks2.HeaderError
	if err := h.Authentic(im.Owner, passphrase); err != nil && !errors.As(err, &changed) {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	if changed != nil {
		return changed.Fields, nil
	}
	// An authentic image may still not open: an Adopt was interrupted, or the slot
	// destroyed.
	key, _, err := h.UnlockOwn(ctx, f, passphrase)
	clear(key)
	if errors.Is(err, luks2.ErrTooCostly) {
		return []luks2.Change{{Field: "keyslots", What: "no slot within the key derivation cost limit"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	return nil, nil
}

// Adopt makes the current header authentic, after a person has checked a change made by
// hand (Changes). An image of format 1, or one whose token was lost, becomes a format 2
// image. The key must open the image, and the header must pass CheckOwn. Errors are those
// of luks2.Adopt.
func (im *Image) Adopt(ctx context.Context) error {
	return im.change(ctx, func(f *os.File, h *luks2.Header) error {
		passphrase, err := im.passphrase(ctx, luks2.Format2, h.UUID())
		if err != nil {
			return err
		}
		defer clear(passphrase)
		err = luks2.Adopt(ctx, f, im.Owner, passphrase, passphrase, luks2.RandomKeyKDF())
		if h.Format() == luks2.Format2 || !errors.Is(err, luks2.ErrNoKey) && !errors.Is(err, luks2.ErrTooCostly) {
			return err
		}
		old, err := im.passphrase(ctx, luks2.Format1, h.UUID())
		if err != nil {
			return err
		}
		defer clear(old)
		return luks2.Adopt(ctx, f, im.Owner, old, passphrase, luks2.RandomKeyKDF())
	})
}

// SetToken replaces the token of the same type, or adds it. The image must be authentic
// before, and stays authentic.
func (im *Image) SetToken(ctx context.Context, token json.RawMessage) error {
	return im.change(ctx, func(f *os.File, h *luks2.Header) error {
		passphrase, err := im.passphrase(ctx, h.Format(), h.UUID())
		if err != nil {
			return err
		}
		defer clear(passphrase)
		return luks2.ReplaceToken(f, im.Owner, passphrase, token)
	})
}

// change calls f with the image's file and header under the image lock. The change
// itself repairs a bad header copy; without a change the copy stays bad.
func (im *Image) change(ctx context.Context, f func(file *os.File, h *luks2.Header) error) (err error) {
	if err := im.check(); err != nil {
		return err
	}
	file, err := im.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	unlock, err := im.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h, err := im.header(file)
	if err != nil {
		return err
	}
	if err := f(file, h); err != nil {
		return fmt.Errorf("image %s: %w", im.Path, err)
	}
	return nil
}
