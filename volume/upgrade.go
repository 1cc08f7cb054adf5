package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
)

// Upgrade authenticates what a tier that was not upgraded has: records in files are written
// as version 2, every sound volume is entered in the tier's list, and the host's revision is
// authenticated with the vault. It returns how many volumes it took in. Each step is one
// rename, so it may be cut short at any point and repeated. Nobody can vouch for what was
// there before: it is taken as the disk says it. progress, when set, is called after each
// volume.
func (s *Store) Upgrade(ctx context.Context, tier persist.Tier, progress func(done, total int, name string)) (int, error) {
	keys, err := s.cfg.Keys(ctx, tier)
	if err != nil {
		return 0, fmt.Errorf("upgrade the volumes of %s: %w", tier, err)
	}
	todo, err := s.Old(ctx, tier)
	if err != nil {
		return 0, err
	}
	if keys.Floor() >= recordVersion {
		todo = nil // what is not listed by now is not ours: see Adopt
	}
	var errs []error
	done := 0
	for i, v := range todo {
		if ctx.Err() != nil {
			return done, errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := s.takeIn(ctx, v.ID(), v.where(), keys); err != nil {
			errs = append(errs, err)
		} else {
			done++
		}
		if progress != nil {
			progress(i+1, len(todo), v.Name)
		}
	}
	if tier == persist.Vault && keys.Floor() < recordVersion {
		errs = append(errs, s.upgradeRevisions(ctx, keys))
	}
	return done, errors.Join(errs...)
}

// Old lists the volumes that Upgrade would take in: those of a tier that are sound, and not
// in its list or not of the present version.
func (s *Store) Old(ctx context.Context, tier persist.Tier) ([]Volume, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var old []Volume
	for _, v := range all {
		if v.Damage == nil && !v.Superseded && keyTier(v.Options) == tier && (!v.Listed || !v.IsImage() && v.MAC == "") {
			old = append(old, v)
		}
	}
	return old, nil
}

// takeIn authenticates one volume's record, and lists it.
func (s *Store) takeIn(ctx context.Context, id ID, place string, keys KeySource) error {
	vs, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range vs {
		if v.ID() != id || v.where() != place {
			continue
		}
		unlock, err := s.lockName(ctx, v.lockName())
		if err != nil {
			return err
		}
		defer unlock()
		if err := s.authenticateRecord(&v, keys); err != nil {
			return fmt.Errorf("take in volume %s: %w", v.Name, err)
		}
		return s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
			l.put(entryOf(v.Record))
			return nil
		})
	}
	return nil // removed meanwhile
}

// authenticateRecord gives a record in a file the authentication of a key. The volume is
// locked.
func (s *Store) authenticateRecord(v *Volume, keys authentic.Keys) (err error) {
	if v.IsImage() {
		return nil
	}
	if v.Record, err = v.seal(keys); err != nil {
		return err
	}
	defer s.catalog.forget(v.Path)
	return writeRecord(*v)
}

// writeRecord replaces the record of a volume that has it in a file.
func writeRecord(v Volume) error {
	data, err := v.encodeFile()
	if err != nil {
		return err
	}
	dir, name := filepath.Split(v.Path)
	if !v.onDisk {
		dir, name = v.Path, recordFile
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(durable.WriteFile(root, "."+name+".tmp", name, data, 0o600), root.Close())
}

func (s *Store) upgradeRevisions(ctx context.Context, keys KeySource) error {
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

// Adopt takes a volume in that its tier's list does not know, because a person says that it
// is theirs: a copy from elsewhere, or from a backup. An image must open with the tier's
// key. It is named by its ID. Refused where the list has its name, or a generation of it.
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
			return Volume{}, fmt.Errorf("adopt volume %s: %w: its name %s is that of %s", id, ErrExists, v.Name, o.ID())
		}
	}
	keys, err := s.keysFor(ctx, v.Options)
	if err != nil || keys == nil {
		return v, err // where there is no vault there is no list
	}
	if v.IsImage() {
		if err := s.within(ctx, v, func(string, Device) error { return nil }); err != nil {
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
