package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"layervault/crypt"
)

// maxChain bounds a chain, the layer itself included: overlayfs stacks at most 500
// lower layers (OVL_MAX_STACK in fs/overlayfs/params.h), and a sealed layer is
// shown as one of them.
const maxChain = 500

// Get returns the record of a layer.
func (s *Store) Get(id string) (Record, error) {
	if err := ValidateID(id); err != nil {
		return Record{}, err
	}
	return s.record(id)
}

// record reads a record once; ErrNotFound if there is none. The result is cached only
// if no write came in between: it may be older than the written record, or belong to a
// removed layer.
func (s *Store) record(id string) (Record, error) {
	s.mu.Lock()
	r, ok := s.records[id]
	changes := s.changes
	s.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := s.readRecord(id)
	if err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == changes {
		s.records[id] = r
	}
	return r, nil
}

// keep caches a record that was just written.
func (s *Store) keep(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.records[r.ID] = r
}

// forget drops the cached record of a layer that was just removed.
func (s *Store) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	delete(s.records, id)
	delete(s.broken, id)
}

func (s *Store) readRecord(id string) (Record, error) {
	f, err := s.root.Open(recordPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return Record{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the record of layer %s: %w", id, err)
	}
	data, err := recordFormat.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return Record{}, fmt.Errorf("read the record of layer %s: %w", id, err)
	}
	r, err := decodeRecord(id, data)
	if err != nil {
		return Record{}, err
	}
	return r, s.authenticate(r)
}

// authenticate checks that a record was written with the vault's key. A version 1 record
// has no MAC, and is accepted only until the vault is upgraded. The check runs once for
// each read of a file: cached records are authentic.
func (s *Store) authenticate(r Record) error {
	if s.keys == nil {
		return nil // a Reader shows what the files say
	}
	return vouched(r, s.keys)
}

// vouched is authenticate, with an error that names the layer.
func vouched(r Record, keys crypt.KeySource) error {
	err := authenticate(r, keys)
	switch {
	case errors.Is(err, ErrForged):
		return fmt.Errorf("%w: layer %s: record %w", ErrDamaged, r.ID, err)
	case errors.Is(err, ErrOldFormat):
		return fmt.Errorf("%w: layer %s: %w", ErrDamaged, r.ID, err)
	case err != nil:
		return fmt.Errorf("layer %s: %w", r.ID, err)
	}
	return nil
}

func authenticate(r Record, keys crypt.KeySource) error {
	if r.Version != oldRecordVersion {
		return r.authentic(keys)
	}
	if keys.Floor() > oldRecordVersion {
		return ErrOldFormat
	}
	return nil
}

// Exists says whether there is such a layer. A damaged one exists.
func (s *Store) Exists(id string) bool {
	if ValidateID(id) != nil {
		return false
	}
	_, err := s.record(id)
	return err == nil || errors.Is(err, ErrDamaged)
}

// Chain returns the records of a layer and its ancestors, the layer itself
// first. ErrTooDeep beyond what overlayfs can stack.
func (s *Store) Chain(id string) ([]Record, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	var chain []Record
	for at := id; at != ""; {
		if len(chain) == maxChain {
			return nil, fmt.Errorf("%w: %s has more than %d layers", ErrTooDeep, id, maxChain)
		}
		r, err := s.record(at)
		if err != nil {
			if at != id {
				err = fmt.Errorf("ancestor of layer %s: %w", id, err)
			}
			return nil, err
		}
		if len(chain) > 0 {
			if err := chain[len(chain)-1].standsOn(r); err != nil {
				return nil, err
			}
		}
		chain = append(chain, r)
		at = r.Parent
	}
	return chain, nil
}

// standsOn checks that a layer's parent still has the image that the layer was made on, or the
// one that was sealed anew from it: both records may be authentic, and one of them older than the
// other.
func (r Record) standsOn(parent Record) error {
	if r.ParentUUID == "" || r.ParentUUID == parent.UUID || r.ParentUUID == parent.Replaces {
		return nil
	}
	return fmt.Errorf("%w: layer %s: %w: parent image was %s of layer %s, parent record now names image %q",
		ErrDamaged, r.ID, ErrForged, r.ParentUUID, parent.ID, parent.UUID)
}

// IDs lists the layers' ids, sorted.
func (s *Store) IDs() ([]string, error) {
	names, err := s.readRoot()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") })
	slices.Sort(names)
	return names, nil
}

// List reads every record, sorted by id. Unreadable records are reported in the error,
// joined, beside the rest.
func (s *Store) List(ctx context.Context) ([]Record, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	records := make([]Record, 0, len(ids))
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		switch r, err := s.record(id); {
		case err == nil:
			records = append(records, r)
		case !errors.Is(err, ErrNotFound): // removed since the directory was read
			errs = append(errs, err)
		}
	}
	return records, errors.Join(errs...)
}

func (s *Store) readRoot() ([]string, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("list the layers: %w", err)
	}
	return names, nil
}

// Usage is the space a layer takes on the disk.
type Usage struct {
	Content int64 // bytes of content; sealed layers only, see Record.Size
	Disk    int64 // bytes of the image file that are allocated
}

// Usage asks the file system what an image occupies.
func (s *Store) Usage(id string) (Usage, error) {
	r, err := s.Get(id)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Content: r.Size}
	fi, err := s.root.Stat(id + "/" + ImageName)
	if errors.Is(err, os.ErrNotExist) && r.Kind == Fresh {
		return u, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of layer %s: %w", id, err)
	}
	u.Disk = allocated(fi)
	return u, nil
}

// ImagePath is the path of a layer's image, for people and their tools.
func (s *Store) ImagePath(id string) string { return s.imagePath(id) }
