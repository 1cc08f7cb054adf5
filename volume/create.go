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

// Create makes a volume. When it returns, the volume is durable; when it fails, nothing is
// left. Repeating it with the same options is no error. With other options it is ErrExists,
// except with a generation after the present one: then the volume begins anew, empty, as
// the options say, and the old generation is removed (see Purge).
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

// newRecord is the record of a generation that a controller asked for, after some that were
// begun here.
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

// recreate tells a retry from a clash, and from a new generation.
func (s *Store) recreate(ctx context.Context, have Volume, want Request) (Volume, error) {
	clash := func(what string, is, wanted any) error {
		return fmt.Errorf("%w: %s has %s %v, not %v", ErrExists, have.Name, what, is, wanted)
	}
	if want.UUID != "" && want.UUID != have.UUID {
		return Volume{}, clash("UUID", have.UUID, want.UUID)
	}
	// A purge on this host is none that the controller knows of: its own next one is yet to
	// come, even where the two would have the same number.
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
		// A volume that was grown is what is asked for by its present size too.
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

// describe writes options as a person would give them.
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

// make makes what a record describes; old, when set, is the generation that it takes the
// place of. The name is locked.
//
// The tier's list gets it first, as pending, so that a crash leaves nothing that nobody
// knows: an entry without a volume, which the next one of that name replaces, or the volume,
// which counts from the rename on that made it appear.
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

// announce enters a volume that is about to be made in its tier's list. What only the list
// has under its name, pending, is of an attempt that a crash ended: the name is locked.
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
