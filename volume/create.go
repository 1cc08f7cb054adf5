package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"layervault/crypt"
	"layervault/persist"
)

// Create makes a volume. When it returns, the volume is durable; after an error nothing is
// left. Repeating it with the same options is no error. Other options are ErrExists, except
// with a later generation than the present one: then the volume is replaced by an empty one
// with these options, and the old generation is removed (see Purge).
func (s *Store) Create(ctx context.Context, name string, want Request) (Volume, error) {
	if err := validateNewName(name); err != nil {
		return Volume{}, err
	}
	if err := s.resolveDisk(&want.Options); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", name, err)
	}
	unlock, err := s.lockName(ctx, name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	switch have, err := s.Get(ctx, name); {
	case err == nil:
		return s.recreate(ctx, have, want)
	case !errors.Is(err, ErrNotFound):
		return Volume{}, err
	}
	if want.UUID == "" {
		want.UUID = uuid.NewString()
	} else if err := s.refuseUsedUUID(ctx, want.UUID, name); err != nil {
		return Volume{}, err
	}
	return s.make(ctx, newRecord(name, want, 0), nil)
}

// newRecord is the record of a generation that a controller requested, after a number of
// generations that were made on this host.
func newRecord(name string, want Request, local int64) Record {
	return Record{
		Version: recordVersion, Name: name, UUID: want.UUID, Generation: max(want.Generation, 0) + local, Local: local,
		Created: time.Now().UTC().Truncate(time.Millisecond), Options: want.Options,
	}
}

func (s *Store) refuseUsedUUID(ctx context.Context, id, name string) error {
	others, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range others {
		if v.UUID == id {
			return fmt.Errorf("%w: UUID %s of the new volume %s is in use by volume %q", ErrExists, id, name, v.Name)
		}
	}
	return nil
}

// recreate distinguishes a retry, a conflict and a new generation.
func (s *Store) recreate(ctx context.Context, have Volume, want Request) (Volume, error) {
	clash := func(what string, is, wanted any) error {
		return fmt.Errorf("%w: %s has %s %v, not %v", ErrExists, have.Name, what, is, wanted)
	}
	if want.UUID != "" && want.UUID != have.UUID {
		return Volume{}, clash("UUID", have.UUID, want.UUID)
	}
	// The controller does not know of purges on this host: its own next generation is new,
	// even if the numbers are equal.
	if want.Generation > have.asked() {
		if err := s.authenticate(ctx, have, toChange); err != nil {
			return Volume{}, err
		}
		r := newRecord(have.Name, want, have.Local)
		r.UUID = have.UUID
		return s.replace(ctx, have, r)
	}
	if want.Generation >= 0 && want.Generation < have.asked() {
		return Volume{}, clash("generation", have.asked(), want.Generation)
	}
	is, asked := have.Options, want.Options
	if im, ok := s.backing(have).(image); ok && asked.Size != is.Size {
		// A volume that was grown also matches its present size.
		size, _, err := im.sizes()
		if err != nil {
			return Volume{}, err
		}
		if asked.Size != size {
			return Volume{}, clash("size", size, asked.Size)
		}
		asked.Size = is.Size
	}
	if is != asked {
		return Volume{}, clash("options", describe(is), describe(asked))
	}
	return have, nil
}

// describe formats options as for docker volume create -o.
func describe(o Options) string {
	var words []string
	for _, w := range [][2]string{
		{"tier", string(o.Tier)}, {"disk", o.Disk}, {"persistence", string(o.Persistence)}, {"platform", o.Platform},
		{"revision", o.Revision}, {"cipher", o.Cipher}, {"mountopts", o.MountOpts},
	} {
		if w[1] != "" {
			words = append(words, w[0]+"="+w[1])
		}
	}
	if o.Size != 0 {
		words = append(words, fmt.Sprintf("size=%d", o.Size))
	}
	if o.Sector != 0 {
		words = append(words, fmt.Sprintf("sector=%d", o.Sector))
	}
	if o.Inodes != 0 {
		words = append(words, fmt.Sprintf("inodes=%d", o.Inodes))
	}
	return strings.Join(words, " ")
}

// make makes the volume of a record; old, if set, is the generation that it replaces. The
// name is locked.
//
// The volume is first added to the tier's list, as pending, so that a crash leaves no unknown
// volume: either an entry without a volume, which the next volume of that name replaces, or
// the complete volume, which exists from its rename on.
func (s *Store) make(ctx context.Context, r Record, old *Volume) (v Volume, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("create volume %s: %w", r.Name, err)
		}
	}()
	if err := r.check(); err != nil {
		return Volume{}, err
	}
	keys, err := s.keysFor(ctx, r.Options)
	if err != nil {
		return Volume{}, err
	}
	v = Volume{Record: r, Path: entryOf(r).path(s.cfg.Layout), Listed: keys != nil}
	if keys != nil {
		if err := s.announce(ctx, v, old, keys); err != nil {
			return Volume{}, err
		}
	}
	if err := s.makeIt(ctx, &v, keys); err != nil {
		if keys != nil && !errors.Is(err, errCrashed) {
			err = errors.Join(err, s.relist(context.WithoutCancel(ctx), keyTier(r.Options), keys, func(l *list) error {
				l.drop(v.where(), v.ID())
				return nil
			}))
		}
		return Volume{}, err
	}
	if err := s.step("made"); err != nil || keys == nil {
		return v, err
	}
	return v, s.relist(ctx, keyTier(r.Options), keys, func(l *list) error {
		l.put(entryOf(r))
		return nil
	})
}

// announce adds a volume that is about to be made to its tier's list. A pending entry of the
// same name without a volume is from an attempt that crashed, because the name is locked.
func (s *Store) announce(ctx context.Context, v Volume, old *Volume, keys crypt.KeySource) error {
	if old != nil && old.Listed && keyTier(old.Options) != keyTier(v.Options) {
		oldKeys, err := s.keysFor(ctx, old.Options)
		if err != nil {
			return err
		}
		err = s.relist(ctx, keyTier(old.Options), oldKeys, func(l *list) error {
			e := entryOf(old.Record)
			e.Next = target(v.where(), v.ID())
			l.put(e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.relist(ctx, keyTier(v.Options), keys, func(l *list) error {
		l.Volumes = slices.DeleteFunc(l.Volumes, func(e entry) bool {
			if e.Name != v.Name || !e.Pending {
				return false
			}
			_, err := os.Lstat(e.path(s.cfg.Layout))
			return errors.Is(err, os.ErrNotExist)
		})
		e := entryOf(v.Record)
		e.Pending = true
		l.put(e)
		return nil
	})
}

// makeIt makes a volume's image, folder or record, and gives a record in a file its
// authentication.
func (s *Store) makeIt(ctx context.Context, v *Volume, keys crypt.KeySource) error {
	if keys != nil {
		if err := v.sealFile(keys); err != nil {
			return err
		}
	}
	return s.backing(*v).create(ctx)
}

// path is where what an entry describes lies.
func (e entry) path(l persist.Layout) string {
	return kindOf(e.Options).path(l, e.id())
}
