package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/internal/durable"
)

// A layer is sealed anew: its content, which cannot change any more, goes into a new image of the
// present form, and the new image takes the place of the old one. Containers run meanwhile. What
// has the old image mounted keeps it, the next open takes the new one.
//
// The new image has a LUKS2 UUID of its own, as every image: the device of the old one may be open
// under the old name, and a header of the old one must not fit the new. But children record the
// UUID of the image below them, in records of their own, which cannot be rewritten in one step
// with the parent's. So for a while the parent's record names both images (Record.Replaces), and a
// child may name either. Then the children are rewritten, one by one, and at last the parent's
// record ends the while: from then on an older record of the parent, with the old image, is
// refused below every child, as before.
//
// Record and image change in one step: the directory of the layer and a temporary one, with the new
// image and its record, exchange their names.
//
// What a crash leaves, by step:
//
//	temporary directory, image being made    the layer as it was; the directory is swept
//	image made, compared, record beside it   the same
//	names exchanged                          the layer with its new image, for which no child's
//	                                         record was rewritten; the directory now has the old
//	                                         image
//	children's records written, one by one   the same; each is the old record or the new one
//	record of the layer without Replaces     done; the directory is left
//	old image erased, when nobody uses it    done
//
// Repeated, Reseal goes on where the last run ended: Replaces shows that children wait. The
// directory, whichever image it has, is swept at the next start, or by EraseReplaced, once no
// device of the image is open.

// resealPrefix begins the names of the temporary directories.
const resealPrefix = tmpPrefix + "reseal-"

// resealLock is what Reseal locks beside layers: no layer's id begins with a dot. One layer at a
// time is sealed anew, which bounds memory and load.
const resealLock = ".reseal"

// Resealed says what became of a layer. Nothing was done to one that has the present form already.
type Resealed struct {
	Done          bool
	Before, After int64 // bytes of the image file that are allocated
}

// Final is asked whether the content of a layer is still what it was when Reseal was called, and
// will not change any more before release is called. Its error ends the sealing.
type Final func(ctx context.Context) (release func(), err error)

// Reseal seals a layer anew: a sealed one whose image has an older form than Import makes here, or
// a committed one of kind writable. Its id, parent, name and size stay. When it returns the new
// image is durable and the layer's, or everything is as it was. It needs the space of both images,
// and holds no lock of the layer while the image is being made; a layer that is removed meanwhile
// is ErrNotFound.
//
// Errors: ErrNotFinal for a layer that can still change; ErrOldFormat before the vault is
// upgraded; ErrDiffers; crypt.ErrNoSpace.
func (s *Store) Reseal(ctx context.Context, id string) (Resealed, error) {
	return s.reseal(ctx, id, nil)
}

// SealFinal is Reseal for a writable layer without a state, of which only the caller knows that it
// does not change any more. final is asked twice: at the start, and before the images are
// exchanged.
func (s *Store) SealFinal(ctx context.Context, id string, final Final) (Resealed, error) {
	return s.reseal(ctx, id, final)
}

func (s *Store) reseal(ctx context.Context, id string, final Final) (done Resealed, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("seal layer %s anew: %w", id, err)
		}
	}()
	unlock, err := s.lockReseal(ctx)
	if err != nil {
		return done, err
	}
	defer unlock()
	r, err := s.resealable(ctx, id, final)
	if err != nil || r.ID == "" {
		return done, err
	}
	dir := tmpName(resealPrefix, id)
	if err := s.root.Mkdir(dir, 0o700); err != nil {
		return done, err
	}
	s.setPacking(dir)
	swapped := false
	defer func() {
		s.setPacking("")
		if !swapped {
			err = errors.Join(err, s.discard(context.WithoutCancel(ctx), dir))
		}
	}()
	made, err := s.pack(ctx, r, dir)
	if err != nil {
		return done, err
	}
	if err := s.step("reseal", id, "image made"); err != nil {
		return done, err
	}
	was, err := s.Usage(id)
	if err != nil {
		return done, err
	}
	if swapped, err = s.swap(ctx, r, dir, made, final); err != nil {
		return done, err
	}
	is, err := s.Usage(id)
	if err != nil {
		return done, err
	}
	done = Resealed{Done: true, Before: was.Disk, After: is.Disk}
	if err := s.settle(ctx, id); err != nil {
		return done, err
	}
	if _, err := s.retire(context.WithoutCancel(ctx), dir); err != nil {
		return done, err
	}
	return done, s.step("reseal", id, "old image erased")
}

func (s *Store) lockReseal(ctx context.Context) (unlock func(), err error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case s.cfg.Scratch == "":
		return nil, errors.New("this store of layers mounts nothing")
	}
	return s.locks.Lock(ctx, resealLock)
}

// resealable is the record of a layer that is to be sealed anew; empty for one that has the present
// form. What an earlier run left to do to the records is done here.
func (s *Store) resealable(ctx context.Context, id string, final Final) (Record, error) {
	if err := s.settle(ctx, id); err != nil {
		return Record{}, err
	}
	r, err := s.Get(id)
	if err != nil {
		return Record{}, err
	}
	switch {
	case r.Version == oldRecordVersion:
		return Record{}, ErrOldFormat
	case r.Kind == Sealed:
		old, err := s.device(Image{Layer: id, Kind: r.Kind, UUID: r.UUID}, id).Outdated(ctx)
		if err != nil || !old {
			return Record{}, err
		}
		return r, nil
	case r.Kind == Writable && r.State == Committed:
		return r, nil
	case r.Kind != Writable || r.State != "" || r.ReadWrite || final == nil:
		return Record{}, ErrNotFinal
	}
	release, err := final(ctx)
	if err != nil {
		return Record{}, err
	}
	release()
	return r, nil
}

// swap puts the new image in a directory, and a record that names it, into the layer's place. The
// old image and record are in the directory then.
func (s *Store) swap(ctx context.Context, r Record, dir string, made crypt.ImportResult, final Final) (swapped bool, err error) {
	if final != nil {
		release, err := final(ctx)
		if err != nil {
			return false, err
		}
		defer release()
	}
	unlock, err := s.lockLayer(ctx, r.ID)
	if err != nil {
		return false, err
	}
	defer unlock()
	next, err := s.record(r.ID)
	switch {
	case err != nil:
		return false, err
	case next.UUID != r.UUID || next.Kind != r.Kind || next.State != r.State:
		return false, fmt.Errorf("%w: it was changed meanwhile", ErrNotFinal)
	}
	if r.Kind != Sealed { // what was told of a sealed one's size stays true
		next.Size = made.Size
	}
	next.Kind, next.UUID, next.Replaces = Sealed, made.UUID, r.UUID
	next, data, err := s.sealed(next)
	if err != nil {
		return false, err
	}
	if err := durable.WriteFile(s.root, dir+"/"+tmpPrefix+recordName, recordPath(dir), data, 0o600); err != nil {
		return false, err
	}
	if err := s.step("reseal", r.ID, "record written"); err != nil {
		return false, err
	}
	if err := s.exchange(dir, r.ID); err != nil {
		return false, err
	}
	s.keep(next)
	err = errors.Join(s.warm.drop(r.ID), durable.SyncDir(s.root, "."))
	if err == nil {
		err = s.step("reseal", r.ID, "exchanged")
	}
	return true, err
}

var errNoExchange = errors.New("file system of the vault cannot exchange two directories (RENAME_EXCHANGE)")

// exchange swaps the names of two directories of the root, in one step.
func (s *Store) exchange(a, b string) (err error) {
	root, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	err = unix.Renameat2(int(root.Fd()), a, int(root.Fd()), b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", errNoExchange, err)
	}
	return err
}

// settle ends the time in which a layer's children may name the image that was replaced: it
// rewrites their records, then the layer's.
//
// No child is missed. Create and Commit enter a child into the index before they read the parent's
// record, and hold the child's lock until its record is written: a child that still read the old
// image's UUID is listed here, and rewritten after that.
func (s *Store) settle(ctx context.Context, id string) error {
	r, err := s.Get(id)
	if err != nil || r.Replaces == "" {
		return err
	}
	children, err := s.Children(ctx, id)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := s.settleChild(ctx, child, r); err != nil {
			return fmt.Errorf("record of its child %s: %w", child, err)
		}
	}
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := s.record(id)
	if err != nil || now.Replaces != r.Replaces {
		return err
	}
	now.Replaces = ""
	return s.writeRecord(now, "settle")
}

// settleChild makes a child name the image that its parent has now. Children of an image that
// could be replaced so far named none. Records of version 1 have no place for it.
func (s *Store) settleChild(ctx context.Context, id string, parent Record) error {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.record(id)
	switch {
	case errors.Is(err, ErrNotFound): // removed meanwhile
		return nil
	case errors.Is(err, ErrDamaged): // it opens on no image
		s.log.WarnContext(ctx, "cannot rewrite an unreadable layer record", "layer", id, "error", err)
		return nil
	case err != nil:
		return err
	case r.Parent != parent.ID || r.Version == oldRecordVersion || r.ParentUUID != parent.Replaces && r.ParentUUID != "":
		return nil
	}
	r.ParentUUID = parent.UUID
	return s.writeRecord(r, "settle child")
}

// current is the record of a layer that is about to be opened, and locked: between the reading of a
// chain and this, the layer may have been sealed anew.
func (s *Store) current(r Record) Record {
	now, err := s.record(r.ID)
	if err != nil || now.Kind != Sealed || now.UUID == r.UUID {
		return r
	}
	return now
}

// retire erases the image in a directory that Reseal left, and the directory, unless the image is
// in use.
func (s *Store) retire(ctx context.Context, name string) (gone bool, err error) {
	if _, err := s.root.Lstat(filepath.Join(name, ImageName)); err == nil {
		device, err := s.device(Image{Kind: Sealed}, name).Opened()
		if err != nil {
			return false, fmt.Errorf("check that the replaced image in %s is unused: %w", name, err)
		}
		if device != 0 {
			s.setWaiting(true)
			return false, nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return true, s.discard(ctx, name)
}

var errAborted = errors.New("the import ended early")

// stream hands the tar of a tree to a reader.
func stream(from func(io.Writer) error, into func(io.Reader) error) error {
	in, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = out.CloseWithError(from(out)) // nil means EOF; documented to return nil
	}()
	err := into(in)
	_ = in.CloseWithError(errAborted) // documented to return nil
	<-done
	return err
}
