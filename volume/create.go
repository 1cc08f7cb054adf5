package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/internal/durable"
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

// resolveDisk puts a disk's own name in place of an alias. There must be such a disk.
func (s *Store) resolveDisk(o *Options) error {
	if o.Disk == "" {
		return nil
	}
	if s.cfg.Disks == nil {
		return fmt.Errorf("%w: %s: no device.json is configured (setting disks)", ErrNoDisk, o.Disk)
	}
	name, err := s.cfg.Disks.Resolve(o.Disk)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDisk, err)
	}
	o.Disk = name
	return nil
}

func (s *Store) refuseUsedUUID(ctx context.Context, id, name string) error {
	others, err := s.List(ctx)
	if err != nil {
		return err
	}
	for _, v := range others {
		if v.UUID == id {
			return fmt.Errorf("%w: volume %q has the UUID %s that %s was to get", ErrExists, v.Name, id, name)
		}
	}
	return nil
}

// recreate tells a retry from a clash, and from a new generation.
func (s *Store) recreate(ctx context.Context, have Volume, want Request) (Volume, error) {
	clash := func(what string, is, wanted any) error {
		return fmt.Errorf("%w: %s has %s %v, not %v: change it with \"layervault volume purge\", which makes a new, empty generation",
			ErrExists, have.Name, what, is, wanted)
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
	if asked.Size != is.Size && have.IsImage() {
		// A volume that was grown is what is asked for by its present size too.
		size, err := s.sizeOf(have)
		if err != nil {
			return Volume{}, err
		}
		if asked.Size != size {
			return Volume{}, fmt.Errorf("%w: make it larger with \"layervault volume grow\"", clash("size", size, asked.Size))
		}
		asked.Size = is.Size
	}
	if is != asked {
		return Volume{}, clash("the options", describe(is), describe(asked))
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

func (s *Store) sizeOf(v Volume) (int64, error) {
	dev, err := s.device(v, "")
	if err != nil {
		return 0, err
	}
	return dev.Size()
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
	v = Volume{Record: r, Path: entryOf(r).path(s.cfg.Layout), Listed: keys != nil, onDisk: r.Options.Disk != ""}
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
func (s *Store) announce(ctx context.Context, v Volume, old *Volume, keys KeySource) error {
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
func (s *Store) makeIt(ctx context.Context, v *Volume, keys KeySource) (err error) {
	if v.IsImage() {
		return s.makeImage(ctx, v.Record, v.Path)
	}
	if keys != nil {
		if v.Record, err = v.seal(keys); err != nil {
			return err
		}
	}
	if v.onDisk {
		return s.makeOnDisk(v.Record)
	}
	return s.makeFolder(v.Record, v.Path)
}

// path is where what an entry describes lies.
func (e entry) path(l persist.Layout) string {
	if e.Options.Disk != "" {
		return filepath.Join(l.VolumeState(), onDisksDir, e.id().String()+".json")
	}
	return filepath.Join(l.Volumes(e.Options.Tier), e.id().String())
}

// makeImage makes the volume's image. What a crash leaves is told in crypt: a temporary
// file, or the image with its token.
func (s *Store) makeImage(ctx context.Context, r Record, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text, err := r.encodeToken()
	if err != nil {
		return err
	}
	params := s.cfg.CryptParams
	if r.Options.Cipher != "" {
		params.Cipher, params.KeySize = r.Options.Cipher, 0
	}
	if r.Options.Sector != 0 {
		params.SectorSize = r.Options.Sector
	}
	size := r.Options.Size
	if size == 0 {
		size = s.cfg.DefaultSize
	}
	if err := ext4.CheckInodes(r.Options.Inodes, size); err != nil {
		return fmt.Errorf("%w inodes: %w", ErrBadOption, err)
	}
	dev := s.cfg.Devices(Image{ID: r.ID(), Tier: r.Options.Tier, Path: path, Params: params, Inodes: r.Options.Inodes, Token: text})
	if err := dev.Create(ctx, size); errors.Is(err, crypt.ErrExists) {
		return fmt.Errorf("%w: its record cannot be read; see layervault volume list: %w", ErrExists, err)
	} else if err != nil {
		return err
	}
	return nil
}

// makeFolder makes a volume of the clear tier.
func (s *Store) makeFolder(r Record, path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	hold, err := os.Open(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
		err = errors.Join(err, hold.Close())
	}()
	if err := unix.Flock(int(hold.Fd()), unix.LOCK_EX); err != nil { // sweepFolders leaves it alone
		return err
	}
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	data, err := r.encodeFile()
	if err != nil {
		return err
	}
	if err := makeDir(root, contentDir); err != nil {
		return err
	}
	if err := durable.WriteFile(root, recordFile+".tmp", recordFile, data, 0o600); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename to %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// makeOnDisk only remembers the volume: its directory is made when it is first mounted, as
// Pantavisor does.
func (s *Store) makeOnDisk(r Record) error {
	data, err := r.encodeFile()
	if err != nil {
		return err
	}
	name := filepath.Join(onDisksDir, r.ID().String()+".json")
	return durable.WriteFile(s.state, filepath.Join(onDisksDir, "."+r.ID().String()+".tmp"), name, data, 0o600)
}

// sweepFolders removes the half-made, and half-removed, folders of the clear tier.
func sweepFolders(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), ".tmp-") {
			continue
		}
		errs = append(errs, removeUnlocked(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// removeUnlocked removes a folder unless somebody is busy with it.
func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	return removeAll(path)
}
