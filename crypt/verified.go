package crypt

import (
	"context"
	"errors"
	"fmt"
	"os"

	"layervault/crypt/luks2"
)

// verified is an image whose header is believed: nothing of it reaches the kernel, and
// nothing is written to it, before.
//
//	on the list of luks2.CheckOwn       whatever the header says, in both formats
//	format 2: its MAC is right          for the image's passphrase, kind and id
//	format 1: the passphrase opens it   all that there is to know
//
// The MAC is checked without opening a key slot, which takes a hundred times as long: for a
// device that is open already that is enough, as the kernel says that it lies on this very
// file (see liesOn). To open one anew the volume key is needed, and unlocking gives it.
type verified struct {
	file       *os.File
	header     *luks2.Header
	passphrase []byte
	key        []byte // nil until unlock
}

// verified opens the image's file and verifies its header. The caller closes the result.
// One copy of the header that is damaged, or older, is written anew from the other when
// that is verified; two damaged ones are luks2.ErrDamaged, and the image is left as it is.
func (d *VirtualDevice) verified(ctx context.Context, mode int) (_ *verified, err error) {
	file, err := d.open(mode)
	if err != nil {
		return nil, err
	}
	v := &verified{file: file}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if v.header, err = d.lockedHeader(ctx, file); err != nil {
		return nil, err
	}
	if err := v.header.CheckOwn(); err != nil {
		return nil, fmt.Errorf("image %s: %w", d.path(), err)
	}
	// Keys may come from far away: no lock is held while we wait for one.
	if v.passphrase, err = d.passphrase(ctx, v.header.Format(), v.header.UUID()); err != nil {
		return nil, err
	}
	if err := d.believe(ctx, v); err != nil {
		return nil, err
	}
	if !v.header.NeedsRepair() {
		return v, nil
	}
	if err := d.repair(ctx, v); err != nil {
		return nil, fmt.Errorf("repair %s: %w", d.path(), err)
	}
	return v, d.believe(ctx, v)
}

func (d *VirtualDevice) believe(ctx context.Context, v *verified) error {
	if v.header.Format() == luks2.Format1 {
		return d.unlock(ctx, v)
	}
	err := v.header.Authentic(d.Owner, v.passphrase)
	if err == nil {
		return nil
	}
	// Nothing of it is what this key wrote: another key's image, rather than one that was
	// changed? The slots tell, and the error says both.
	var changed *luks2.HeaderError
	if errors.As(err, &changed) && changed.Field() == luks2.FieldMAC {
		if noKey := d.unlock(ctx, v); noKey != nil {
			return fmt.Errorf("%w: %w", noKey, err)
		}
	}
	return fmt.Errorf("image %s: %w; if you made these changes yourself: layervault image adopt", d.path(), err)
}

// unlock gets the volume key, once.
func (d *VirtualDevice) unlock(ctx context.Context, v *verified) (err error) {
	if v.key != nil {
		return nil
	}
	if v.key, _, err = v.header.UnlockOwn(ctx, v.file, v.passphrase); err != nil {
		return fmt.Errorf("unlock %s: %w", d.path(), err)
	}
	return nil
}

func (v *verified) close() {
	clear(v.passphrase)
	clear(v.key)
	_ = v.file.Close()
}

// lockedHeader reads the header while nobody changes it.
func (d *VirtualDevice) lockedHeader(ctx context.Context, f *os.File) (*luks2.Header, error) {
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return d.header(f)
}

func (d *VirtualDevice) header(f *os.File) (*luks2.Header, error) {
	h, err := luks2.Read(f)
	if errors.Is(err, luks2.ErrNotLUKS2) {
		// It was one when it got its name, so both copies of its header were overwritten.
		err = fmt.Errorf("%w: %w", luks2.ErrDamaged, err)
	}
	if errors.Is(err, luks2.ErrDamaged) {
		err = fmt.Errorf("%w: it was not touched; restore the image from a backup, or remove the layer and pull it again", err)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", d.path(), err)
	}
	return h, nil
}

// repair writes the bad copy of a header anew, from the one that was verified.
func (d *VirtualDevice) repair(ctx context.Context, v *verified) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	damage := v.header.Damage()
	w, err := d.open(os.O_RDWR)
	if err != nil {
		return err
	}
	if err := errors.Join(luks2.Repair(w), w.Close()); err != nil {
		return err
	}
	d.log().Warn("repaired a damaged copy of the LUKS2 header from the other one", "damage", damage)
	v.header, err = d.header(v.file)
	return err
}
