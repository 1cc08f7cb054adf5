package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"layervault/crypt"
	"layervault/persist"
)

// purpose is what a volume is to be authenticated for.
type purpose int

const (
	toUse    purpose = iota // what it holds is read and written
	toChange                // it is made larger, removed, or another one takes its place
)

// hasVault says whether there is a vault on the disk, open or not: then it vouches for the
// volumes that have no key of their own. Where there never was one, nobody can.
func (s *Store) hasVault() bool {
	ring := s.cfg.Layout.KeyRing(persist.Vault)
	for _, name := range []string{ring, ring + ".bak", s.cfg.Layout.VolumeList(persist.Vault)} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

// keysFor opens the tier that vouches for volumes of some options. None, without an error,
// for volumes that have no key of their own where there is no vault.
func (s *Store) keysFor(ctx context.Context, o Options) (crypt.KeySource, error) {
	tier, own := kindOf(o).keyTier()
	if !own && !s.hasVault() {
		return nil, nil
	}
	keys, err := s.cfg.Keys(ctx, tier)
	if err != nil && !own {
		err = fmt.Errorf("volumes of this kind are authenticated by the vault: %w", err)
	}
	return keys, err
}

// authenticate looks whether a volume is what it says: its tier's list, authentic, has it.
// One that is not listed is believed only while the tier was not upgraded (floor 1), as
// far as its own record goes; of an image that record is authenticated with its header when
// it is opened.
//
// While the vault is locked, a volume without a key of its own can be used where nothing
// contradicts it (see judge): it was made for speed, or for before the vault opens, and who
// made it does not expect the vault to be asked. It cannot be changed or removed.
func (s *Store) authenticate(ctx context.Context, v Volume, why purpose) error {
	if v.Damage != nil {
		return v.refusal()
	}
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil && why == toUse && !v.ownKey() && ctx.Err() == nil {
		s.log.WarnContext(ctx, "vault is locked; using a volume without authentication", "volume", v.Name, "path", v.Path, "reason", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	if keys == nil {
		return nil
	}
	if err := s.vouch(v, keys); err != nil {
		return err
	}
	if v.pending && why == toUse {
		// Its maker died before it could say that it is there.
		return s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
			l.put(entryOf(v.Record))
			return nil
		})
	}
	return nil
}

// vouch is authenticate with the keys at hand.
func (s *Store) vouch(v Volume, keys crypt.KeySource) error {
	if _, err := s.authenticList(keyTier(v.Options), keys); err != nil {
		return err
	}
	if v.recordFile() != "" && v.MAC != "" {
		if err := v.authentic(keys); err != nil {
			return fmt.Errorf("volume %s (%s): %w: record of %s is %w", v.Name, v.ID(), ErrDamaged, v.Path, err)
		}
	}
	if v.Listed && !v.bare() || keys.Floor() < recordVersion {
		return nil
	}
	if v.bare() {
		return fmt.Errorf("volume %s (%s): %w: %w", v.Name, v.ID(), ErrDamaged, ErrOldFormat)
	}
	return fmt.Errorf("volume %s (%s): %w: %w", v.Name, v.ID(), ErrDamaged, ErrUnlisted)
}
