package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/moby/sys/user"

	"layervault/internal/durable"
)

// CreateOptions are the choices at the making of a layer.
type CreateOptions struct {
	// ReadWrite makes the writable image at once.
	ReadWrite bool
	// SizeLimit is the size of the writable image's file system in bytes as asked
	// for; 0 for DefaultSize. It is part of what makes a retry the same request.
	SizeLimit int64
	// DefaultSize is used when SizeLimit is 0.
	DefaultSize int64
	// Name and State are those of a layer whose front door prepares and commits; see Commit.
	// A layer to be viewed has no image, whatever ReadWrite says.
	Name  string
	State State
	// IDMap gives the owner of a writable image's root.
	IDMap user.IdentityMapping
}

// Create makes a layer on top of parent ("" for none). When it returns, the
// layer is durable; when it fails, nothing is left. Repeating it with the same
// arguments is no error, with others ErrExists.
func (s *Store) Create(ctx context.Context, id, parent string, opts CreateOptions) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	want := Record{
		ID: id, Parent: parent, Kind: Fresh, ReadWrite: opts.ReadWrite,
		SizeLimit: opts.SizeLimit, Owner: s.process, Created: time.Now().UTC().Truncate(time.Millisecond),
		Name: opts.Name, State: opts.State,
	}
	if opts.ReadWrite && opts.State != Viewed {
		want.Kind, want.Owner = Writable, ""
	}
	if parent == id {
		return fmt.Errorf("create layer %s: layer is its own parent", id)
	}
	if parent != "" {
		if err := ValidateID(parent); err != nil {
			return fmt.Errorf("create layer %s: parent: %w", id, err)
		}
	}
	if have, err := s.record(id); err == nil {
		return s.recreate(have, want)
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	if !s.index.add(parent, id) {
		return fmt.Errorf("create layer %s: parent: %w: %s is being removed", id, ErrNotFound, parent)
	}
	if err := s.create(ctx, want, opts); err != nil {
		s.index.drop(parent, id)
		return err
	}
	return nil
}

// recreate distinguishes a retry from a clash.
func (s *Store) recreate(have, want Record) error {
	if have.Parent != want.Parent || have.SizeLimit != want.SizeLimit || have.ReadWrite != want.ReadWrite ||
		have.Name != want.Name || have.State != want.State {
		return fmt.Errorf("%w: %s, with parent %q, size limit %d and read-write %t",
			ErrExists, have.ID, have.Parent, have.SizeLimit, have.ReadWrite)
	}
	if have.Kind != Fresh || have.Owner == s.process {
		return nil
	}
	// The creating process died before its answer arrived. The client of the retry has not
	// begun to fill the layer, so the layer is as good as one of this process.
	have.Owner = s.process
	return s.writeRecord(have, "create")
}

func (s *Store) create(ctx context.Context, r Record, opts CreateOptions) (err error) {
	if r, err = s.on(r); err != nil {
		return fmt.Errorf("create layer %s: parent: %w", r.ID, err)
	}
	dir := tmpName(tmpPrefix, r.ID)
	if err := s.root.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("create layer %s: %w", r.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.warm.drop(r.ID), s.discard(context.WithoutCancel(ctx), dir))
		}
	}()
	if err := s.step("create", r.ID, "directory made"); err != nil {
		return err
	}
	if r.Kind == Writable {
		if r.UUID, err = s.makeWritable(ctx, r, dir, opts.DefaultSize, opts.IDMap); err != nil {
			return err
		}
		if err := s.step("create", r.ID, "image made"); err != nil {
			return err
		}
	}
	r, data, err := s.sealed(r)
	if err != nil {
		return fmt.Errorf("create layer %s: %w", r.ID, err)
	}
	if err := durable.WriteFile(s.root, dir+"/"+tmpPrefix+recordName, recordPath(dir), data, 0o600); err != nil {
		return fmt.Errorf("create layer %s: %w", r.ID, err)
	}
	if err := s.step("create", r.ID, "record written"); err != nil {
		return err
	}
	if err := s.root.Rename(dir, r.ID); err != nil {
		return fmt.Errorf("create layer %s: %w", r.ID, err)
	}
	dir = r.ID // what to discard if the fsync fails
	if err := durable.SyncDir(s.root, "."); err != nil {
		return fmt.Errorf("create layer %s: %w", r.ID, err)
	}
	if err := s.step("create", r.ID, "renamed"); err != nil {
		return err
	}
	s.keep(r)
	return nil
}

// on fills in what a record says of its parent's image. Layers with a state stand on committed
// ones alone.
func (s *Store) on(r Record) (Record, error) {
	if r.Parent == "" {
		return r, nil
	}
	chain, err := s.Chain(r.Parent)
	if err != nil {
		return r, err
	}
	if len(chain) == maxChain {
		return r, fmt.Errorf("%w: parent already has %d layers", ErrTooDeep, maxChain)
	}
	if r.State != "" && chain[0].State != Committed {
		return r, fmt.Errorf("%w: %s is not committed", ErrState, r.Parent)
	}
	r.ParentUUID = chain[0].lastingUUID()
	return r, nil
}

// lastingUUID is the UUID of a layer's image if that image is never replaced: Reset
// removes no image from a layer that was made for a container, nor from a committed one.
func (r Record) lastingUUID() string {
	if r.Kind == Sealed || r.Kind == Writable && (r.ReadWrite || r.State == Committed) {
		return r.UUID
	}
	return ""
}

// sealed is a record with its authentication, and as it is written.
func (s *Store) sealed(r Record) (Record, []byte, error) {
	r, err := r.seal(s.keys)
	if err == nil {
		err = r.check(r.ID) // what could not be read back is not written
	}
	if err != nil {
		return r, nil, err
	}
	data, err := r.encode()
	if err == nil && len(data) > recordFormat.MaxSize {
		err = fmt.Errorf("%w: record has %d bytes", ErrBadName, len(data))
	}
	return r, data, err
}

// makeWritable makes the image of r in the directory dir, and returns its UUID.
func (s *Store) makeWritable(ctx context.Context, r Record, dir string, defaultSize int64, idmap user.IdentityMapping) (string, error) {
	size := r.SizeLimit
	if size == 0 {
		size = defaultSize
	}
	dev := s.device(Image{Layer: r.ID, Kind: Writable, IDMap: idmap}, dir)
	held, err := dev.CreateHeld(ctx, size)
	if err != nil {
		return "", fmt.Errorf("make the writable image of layer %s: %w", r.ID, err)
	}
	uuid, err := dev.UUID()
	if err != nil {
		return "", errors.Join(fmt.Errorf("make the writable image of layer %s: %w", r.ID, err), held.Close())
	}
	// The caller is about to mount the image.
	if err := s.warm.keep(r.ID, held); err != nil {
		return "", fmt.Errorf("make the writable image of layer %s: %w", r.ID, err)
	}
	return uuid, nil
}

// MakeWritable gives a fresh layer its writable image. A layer that has content
// is left as it is.
func (s *Store) MakeWritable(ctx context.Context, id string, opts CreateOptions) (Record, error) {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	r, err := s.record(id)
	if err != nil || r.Kind != Fresh {
		return r, err
	}
	if r.State != "" && r.State != Active {
		return r, fmt.Errorf("make layer %s writable: %w: %s", id, ErrState, r.State)
	}
	err = s.fill(ctx, r, "make writable", func(dir string) (Record, error) {
		next := r
		next.Kind, next.Owner = Writable, ""
		var err error
		next.UUID, err = s.makeWritable(ctx, r, dir, opts.DefaultSize, opts.IDMap)
		return next, err
	})
	if err != nil {
		return Record{}, err
	}
	return s.record(id)
}

// fill gives a fresh layer an image: build makes the image in a temporary directory, a
// rename moves it into the layer's directory, and the new record makes it valid. The
// layer is locked.
func (s *Store) fill(ctx context.Context, r Record, op string, build func(dir string) (Record, error)) (err error) {
	// An image beside a fresh record is a leftover of a crashed attempt that was never
	// acknowledged.
	if err := s.eraseImage(ctx, r, r.ID); err != nil {
		return err
	}
	dir := tmpName(tmpPrefix, r.ID)
	if err := s.root.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("%s %s: %w", op, r.ID, err)
	}
	defer func() {
		err = errors.Join(err, s.discard(context.WithoutCancel(ctx), dir))
	}()
	next, err := build(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.warm.drop(r.ID))
		}
	}()
	if err := s.step(op, r.ID, "image made"); err != nil {
		return err
	}
	if err := s.root.Rename(dir+"/"+ImageName, r.ID+"/"+ImageName); err != nil {
		return fmt.Errorf("%s %s: %w", op, r.ID, err)
	}
	if err := durable.SyncDir(s.root, r.ID); err != nil {
		return fmt.Errorf("%s %s: %w", op, r.ID, err)
	}
	if err := s.step(op, r.ID, "image renamed"); err != nil {
		return err
	}
	return s.writeRecord(next, op)
}

// writeRecord replaces the record of a layer. The layer is locked.
func (s *Store) writeRecord(r Record, op string) error {
	r, data, err := s.sealed(r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, r.ID, err)
	}
	if err := durable.WriteFile(s.root, tmpName(tmpPrefix, r.ID), recordPath(r.ID), data, 0o600); err != nil {
		return fmt.Errorf("%s %s: %w", op, r.ID, err)
	}
	s.keep(r)
	return s.step(op, r.ID, "record written")
}

// eraseImage destroys the image in a directory, if there is one.
func (s *Store) eraseImage(ctx context.Context, r Record, dir string) error {
	if _, err := s.root.Lstat(dir + "/" + ImageName); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := s.device(Image{Layer: r.ID, Kind: r.Kind}, dir).Remove(ctx); err != nil {
		return fmt.Errorf("erase the image of layer %s: %w", r.ID, err)
	}
	return nil
}
