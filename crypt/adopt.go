package crypt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"layervault/crypt/luks2"
)

// Upgrade makes an image of format 1 one of format 2, in place: the passphrase of one is
// exchanged for that of the other. It also finishes what an Upgrade that was cut short
// began; an image that is done is not written to. The image may be open. Errors are those
// of luks2.Upgrade.
func (d *VirtualDevice) Upgrade(ctx context.Context) error {
	return d.change(ctx, func(f *os.File, h *luks2.Header) error {
		next, err := d.passphrase(ctx, luks2.Format2, h.UUID())
		if err != nil {
			return err
		}
		defer clear(next)
		old, err := d.passphrase(ctx, luks2.Format1, h.UUID())
		if err != nil {
			return err
		}
		defer clear(old)
		return luks2.Upgrade(ctx, f, d.Owner, old, next, luks2.RandomKeyKDF())
	})
}

// Changes lists what an image's header has that its key did not write, none for one that
// opens as it is. A header that may never be used is an error, see luks2.CheckOwn: Adopt
// would refuse it too. Of an image without anything that authenticates it, of format 1
// for instance, that is the only change that can be told.
func (d *VirtualDevice) Changes(ctx context.Context) ([]luks2.Change, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	f, err := d.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h, err := d.lockedHeader(ctx, f)
	if err != nil {
		return nil, err
	}
	if err := h.CheckOwn(); err != nil {
		return nil, fmt.Errorf("image %s: %w", d.path(), err)
	}
	passphrase, err := d.passphrase(ctx, luks2.Format2, h.UUID())
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	var changed *luks2.HeaderError
	if err := h.Authentic(d.Owner, passphrase); err != nil && !errors.As(err, &changed) {
		return nil, fmt.Errorf("image %s: %w", d.path(), err)
	}
	if changed != nil {
		return changed.Fields, nil
	}
	// It may be authentic and yet not open: an Adopt was cut short, or the slot destroyed.
	key, _, err := h.UnlockOwn(ctx, f, passphrase)
	clear(key)
	if errors.Is(err, luks2.ErrTooCostly) {
		return []luks2.Change{{Field: "keyslots", What: "has none that is cheap to try"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", d.path(), err)
	}
	return nil, nil
}

// Adopt takes the header in as it is now, after a change by hand that a person has looked
// at (Changes). An image of format 1, or one whose token was lost, becomes one of format 2.
// The key must open the image, and the header be one that may be used. Errors are those of
// luks2.Adopt.
func (d *VirtualDevice) Adopt(ctx context.Context) error {
	return d.change(ctx, func(f *os.File, h *luks2.Header) error {
		passphrase, err := d.passphrase(ctx, luks2.Format2, h.UUID())
		if err != nil {
			return err
		}
		defer clear(passphrase)
		err = luks2.Adopt(ctx, f, d.Owner, passphrase, passphrase, luks2.RandomKeyKDF())
		if h.Format() == luks2.Format2 || !errors.Is(err, luks2.ErrNoKey) && !errors.Is(err, luks2.ErrTooCostly) {
			return err
		}
		old, err := d.passphrase(ctx, luks2.Format1, h.UUID())
		if err != nil {
			return err
		}
		defer clear(old)
		return luks2.Adopt(ctx, f, d.Owner, old, passphrase, luks2.RandomKeyKDF())
	})
}

// SetToken puts a token in the place of the one of its type, or adds it. The image is
// authentic before, or not touched, and after.
func (d *VirtualDevice) SetToken(ctx context.Context, token json.RawMessage) error {
	return d.change(ctx, func(f *os.File, h *luks2.Header) error {
		passphrase, err := d.passphrase(ctx, h.Format(), h.UUID())
		if err != nil {
			return err
		}
		defer clear(passphrase)
		return luks2.ReplaceToken(f, d.Owner, passphrase, token)
	})
}

// change calls f with the image's file and header while nobody else changes them. A bad
// copy of the header is mended by the change itself, or stays.
func (d *VirtualDevice) change(ctx context.Context, f func(file *os.File, h *luks2.Header) error) (err error) {
	if err := d.check(); err != nil {
		return err
	}
	file, err := d.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	h, err := d.header(file)
	if err != nil {
		return err
	}
	if err := f(file, h); err != nil {
		return fmt.Errorf("image %s: %w", d.path(), err)
	}
	return nil
}
