package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"layervault/crypt/luks2"
)

// verified is an image with a verified header: before verification no header data
// reaches the kernel, and the image is not written to.
//
//	on the list of luks2.CheckOwn       whatever the header says, in both formats
//	format 2: its MAC is right          for the image's passphrase, kind and id
//	format 1: the passphrase opens it   all that there is to know
//
// The MAC is checked without opening a key slot, which takes a hundred times as long. For a
// device that is open already the MAC is enough, because the kernel confirms the backing
// file (see liesOn). A new open needs the volume key, from unlocking.
type verified struct {
	file       *os.File
	header     *luks2.Header
	passphrase []byte
	content    content
	key        []byte // nil until unlock
}

// verified opens the image's file and verifies its header. The caller closes the result. A
// header copy that is damaged or older is rewritten from the verified other copy; two
// damaged copies are luks2.ErrDamaged, and the image is left unchanged.
func (im *Image) verified(ctx context.Context, mode int) (_ *verified, err error) {
	file, err := im.open(mode)
	if err != nil {
		return nil, err
	}
	v := &verified{file: file}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.header, err = im.lockedHeader(ctx, file); err != nil {
		return nil, err
	}
	if err := v.header.CheckOwn(); err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	// A key may come from a remote service: no lock is held meanwhile.
	if v.passphrase, err = im.passphrase(ctx, v.header.Format(), v.header.UUID()); err != nil {
		return nil, err
	}
	if err := im.believe(ctx, v); err != nil {
		return nil, err
	}
	if v.content, err = contentOf(v.header); err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	if v.content.tree == nil {
		if err := im.unverified(ErrNoTree); err != nil {
			return nil, err
		}
	}
	if !v.header.NeedsRepair() {
		return v, nil
	}
	if err := im.repair(ctx, v); err != nil {
		return nil, fmt.Errorf("repair %s: %w", im.Path, err)
	}
	return v, im.believe(ctx, v)
}

func (im *Image) believe(ctx context.Context, v *verified) error {
	if v.header.Format() == luks2.Format1 {
		return im.unlock(ctx, v)
	}
	err := v.header.Authentic(im.Owner, v.passphrase)
	if err == nil {
		return nil
	}
	// No field matches this key: either another key's image, or a changed header. The key
	// slots decide, and the error names both.
	var changed *luks2.HeaderError
	if errors.As(err, &changed) && changed.Field() == luks2.FieldMAC {
		if noKey := im.unlock(ctx, v); noKey != nil {
			return fmt.Errorf("%w: %w", noKey, err)
		}
	}
	return fmt.Errorf("image %s: %w", im.Path, err)
}

// unlock reads the volume key, once.
func (im *Image) unlock(ctx context.Context, v *verified) (err error) {
	if v.key != nil {
		return nil
	}
	if v.key, _, err = v.header.UnlockOwn(ctx, v.file, v.passphrase); err != nil {
		return fmt.Errorf("unlock %s: %w", im.Path, err)
	}
	return nil
}

func (v *verified) close() {
	clear(v.passphrase)
	clear(v.key)
	_ = v.file.Close()
}

// lockedHeader reads the header under the image lock.
func (im *Image) lockedHeader(ctx context.Context, f *os.File) (*luks2.Header, error) {
	unlock, err := im.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return im.header(f)
}

func (im *Image) header(f *os.File) (*luks2.Header, error) {
	h, err := luks2.Read(f)
	if errors.Is(err, luks2.ErrNotLUKS2) {
		// The file was a LUKS2 image when it got its name, so both header copies were
		// overwritten.
		err = fmt.Errorf("%w: %w", luks2.ErrDamaged, err)
	}
	if errors.Is(err, luks2.ErrDamaged) {
		err = fmt.Errorf("%w: image left unchanged", err)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Path, err)
	}
	return h, nil
}

// repair rewrites the damaged header copy from the verified one.
func (im *Image) repair(ctx context.Context, v *verified) error {
	unlock, err := im.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	damage := v.header.Damage()
	w, err := im.open(os.O_RDWR)
	if err != nil {
		return err
	}
	if err := errors.Join(luks2.Repair(w), w.Close()); err != nil {
		return err
	}
	im.log().Warn("repaired a damaged LUKS2 header copy from the intact copy", "damage", damage)
	v.header, err = im.header(v.file)
	return err
}
