package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"layervault/crypt"
	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
)

// Upgrade brings everything that a tier's key authenticates to the present format: the image
// of every volume; record files, which are written as version 2; the tier's list, to which
// every sound volume is added; and, with the vault, the host's revision. It returns how many
// volumes it added to the list. Each volume is locked meanwhile, and may be mounted. It may be
// interrupted at any point and repeated: a record is one rename, an image opens at all times.
// Volumes that existed before are accepted without authentication. Errors of single volumes
// are joined and returned when the others are done. progress, if set, is called after each
// volume.
func (s *Store) Upgrade(ctx context.Context, tier persist.Tier, progress func(done, total int, name string)) (int, error) {
	keys, err := s.cfg.Keys(ctx, tier)
	if err != nil {
		return 0, fmt.Errorf("upgrade the volumes of %s: %w", tier, err)
	}
	all, err := s.List(ctx)
	if err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(v Volume) bool { return v.missing || v.KeyTier() != tier })
	var errs []error
	entered := 0
	for i, v := range all {
		if ctx.Err() != nil {
			return entered, errors.Join(append(errs, context.Cause(ctx))...)
		}
		switch did, err := s.upgrade(ctx, v.ID(), v.where(), keys); {
		case err != nil:
			errs = append(errs, err)
		case did:
			entered++
		}
		if progress != nil {
			progress(i+1, len(all), v.lockName())
		}
	}
	if tier == persist.Vault && keys.Floor() < recordVersion {
		errs = append(errs, s.upgradeRevisions(ctx, keys))
	}
	return entered, errors.Join(errs...)
}

// KeyTier is the tier whose key authenticates a volume.
func (v Volume) KeyTier() persist.Tier { return keyTier(v.Options) }

// Unauthenticated reports whether a sound volume is one that only a tier that was not upgraded
// accepts: not in the tier's list, or with a record of version 1.
func (v Volume) Unauthenticated() bool {
	return v.Damage == nil && !v.Superseded && (!v.Listed || v.bare())
}

// Missing reports whether only the tier's list has the volume.
func (v Volume) Missing() bool { return v.missing }

// RevisionVersion is the version of the list of revisions; 0 if no revision was set.
func RevisionVersion(l persist.Layout) (int, error) {
	r, err := readRevisions(l)
	if err != nil || r.Current == "" && len(r.Known) == 0 {
		return 0, err
	}
	return r.Version, nil
}

// Old lists the volumes that Upgrade would add to the tier's list.
func (s *Store) Old(ctx context.Context, tier persist.Tier) ([]Volume, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(v Volume) bool { return v.KeyTier() != tier || !v.Unauthenticated() }), nil
}

// upgrade brings one volume to the present format and reports whether it was added to the
// tier's list.
func (s *Store) upgrade(ctx context.Context, id ID, place string, keys crypt.KeySource) (bool, error) {
	v, unlock, err := s.lockAt(ctx, id, place)
	if err != nil || v == nil { // removed meanwhile
		return false, err
	}
	defer unlock()
	if im, ok := s.backing(*v).(image); ok {
		if err := im.upgrade(ctx); err != nil {
			return false, fmt.Errorf("upgrade volume %s: %w", v.lockName(), err)
		}
	}
	// A volume that an upgraded tier does not list needs Adopt.
	if v.Damage != nil || !v.Unauthenticated() || keys.Floor() >= recordVersion {
		return false, v.refusal()
	}
	if err := s.authenticateRecord(v, keys); err != nil {
		return false, fmt.Errorf("upgrade volume %s: %w", v.Name, err)
	}
	return true, s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
		l.put(entryOf(v.Record))
		return nil
	})
}

// lockAt locks the generation at a place; nil where there is none any more.
func (s *Store) lockAt(ctx context.Context, id ID, place string) (_ *Volume, unlock func(), err error) {
	find := func() (*Volume, error) {
		all, err := s.List(ctx)
		i := slices.IndexFunc(all, func(v Volume) bool { return !v.missing && v.ID() == id && v.where() == place })
		if err != nil || i < 0 {
			return nil, err
		}
		return &all[i], nil
	}
	v, err := find()
	for err == nil && v != nil {
		locked := v.lockName()
		if unlock, err = s.lockName(ctx, locked); err != nil {
			return nil, nil, err
		}
		if v, err = find(); err == nil && v != nil && v.lockName() == locked {
			return v, unlock, nil
		}
		unlock()
	}
	return nil, nil, err
}

// authenticateRecord gives a record in a file the authentication of a key. The volume is
// locked.
func (s *Store) authenticateRecord(v *Volume, keys authentic.Keys) error {
	if v.recordFile() == "" {
		return nil
	}
	if err := v.sealFile(keys); err != nil {
		return err
	}
	defer s.catalog.forget(v.Path)
	return writeRecord(*v)
}

// sealFile gives a record in a file the authentication of a key; a token needs none.
func (v *Volume) sealFile(keys authentic.Keys) (err error) {
	if v.recordFile() != "" {
		v.Record, err = v.seal(keys)
	}
	return err
}

// writeRecord replaces the record of a volume that has it in a file.
func writeRecord(v Volume) error {
	data, err := v.encodeFile()
	if err != nil {
		return err
	}
	name := v.recordFile()
	return durable.Replace(name, "."+filepath.Base(name)+".tmp", data)
}

func (s *Store) upgradeRevisions(ctx context.Context, keys crypt.KeySource) error {
	unlock, err := s.lockByte(ctx, 0, "revisions")
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.Revisions()
	if err != nil || r.Version != oldRevisionsVersion || r.Current == "" && len(r.Known) == 0 {
		return err
	}
	return s.writeRevisions(r, keys)
}

// Adopt adds a volume to its tier's list on a person's word: a copy from another machine, or
// from a backup. The volume is named by its ID. An image must open with the tier's key. If the
// list has another volume of that name the error is ErrExists.
func (s *Store) Adopt(ctx context.Context, id string) (Volume, error) {
	if _, err := ParseID(id); err != nil {
		return Volume{}, fmt.Errorf("adopt a volume by its ID: %w", err)
	}
	v, unlock, err := s.lockAny(ctx, id)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	if v.Damage != nil && !errors.Is(v.Damage, ErrUnlisted) {
		return Volume{}, fmt.Errorf("adopt volume %s: %w", id, v.Damage)
	}
	all, err := s.List(ctx)
	if err != nil {
		return Volume{}, err
	}
	for _, o := range all {
		if o.Listed && !o.Superseded && o.Name == v.Name && o.UUID != v.UUID {
			return Volume{}, fmt.Errorf("adopt volume %s: %w: name %s belongs to volume %s", id, ErrExists, v.Name, o.ID())
		}
	}
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil || keys == nil {
		return v, err // where there is no vault there is no list
	}
	if im, ok := s.backing(v).(image); ok {
		if err := im.within(ctx, func(string) error { return nil }); err != nil {
			return Volume{}, fmt.Errorf("adopt volume %s: %w", id, err)
		}
	}
	if err := s.authenticateRecord(&v, keys); err != nil {
		return Volume{}, fmt.Errorf("adopt volume %s: %w", id, err)
	}
	v.Listed, v.Damage = true, nil
	return v, s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
		l.put(entryOf(v.Record))
		return nil
	})
}
