package crypt

import (
	"context"

	"layervault/internal/authentic"
)

// KeySource is an open tier.
type KeySource interface {
	// Passphrase is the LUKS2 passphrase of an image of a kind, an ID and a LUKS2 UUID, for
	// an image format (luks2.Format1 or luks2.Format2). The caller wipes the result.
	Passphrase(format int, kind, id, imageUUID string) ([]byte, error)
	authentic.Keys
	// Floor is the lowest format of images and records that the tier still accepts.
	Floor() int
}

// KeyFunc returns the passphrase of the image with this LUKS2 UUID, for an image format. It
// rejects formats that are no longer accepted: see CheckFormat. The caller of a KeyFunc
// wipes the result.
type KeyFunc func(ctx context.Context, format int, imageUUID string) (passphrase []byte, err error)

// KeyFrom is the KeyFunc of an image whose tier is opened by open, each time the image is.
func KeyFrom(open func(context.Context) (KeySource, error), image Owner) KeyFunc {
	return func(ctx context.Context, format int, imageUUID string) ([]byte, error) {
		keys, err := open(ctx)
		if err != nil {
			return nil, err
		}
		if err := CheckFormat(format, keys.Floor()); err != nil {
			return nil, err
		}
		return keys.Passphrase(format, image.Kind, image.ID, imageUUID)
	}
}

// CheckFormat returns a *FormatError if the format is below floor, the lowest format that
// the tier accepts.
func CheckFormat(format, floor int) error {
	if format < floor {
		return &FormatError{Format: format, Floor: floor}
	}
	return nil
}
