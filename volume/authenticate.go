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
	toUse    purpose = iota // read and write its content
	toChange                // grow, remove or replace the volume
)

// hasVault reports whether there is a vault on the disk, open or not: its key authenticates
// the volumes that have no key of their own. Without a vault they are not authenticated.
func (s *Store) hasVault() bool {
	ring := s.cfg.Layout.KeyRing(persist.Vault)
	for _, name := range []string{ring, ring + ".bak", s.cfg.Layout.VolumeList(persist.Vault)} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

// keysFor opens the tier that authenticates volumes with some options. The result is nil,
// without an error, for volumes that have no key of their own on a host without a vault.
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

// authenticate checks a volume against the authentic list of its tier. An unlisted volume is
// accepted only in a tier that was not upgraded (floor 1), if its own record is authentic;
// the record of an image is authenticated with the header when the image is opened.
//
// While the vault is locked, a volume without a key of its own can be used if nothing
// contradicts it (see judge): such volumes are for speed, or for the time before the vault
// opens. They cannot be changed or removed then.
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
		// The process that made it died before it could update the list.
		return s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
			l.put(entryOf(v.Record))
			return nil
		})
	}
	return nil
}

// vouch is authenticate for an open tier.
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
