package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/crypt"
	"layervault/internal/authentic"
	"layervault/internal/durable"
)

// Upgrade converts every layer to the current format, first its image, then its record, and
// returns the number of records written. Each layer is locked meanwhile, and may be mounted.
// An interrupted Upgrade can be repeated: a record is replaced by one rename, an image can
// be opened at any time. Values missing in version 1 records are read from the disk without
// authentication: nothing proves the earlier state. Layers with errors are left unchanged
// and reported, joined, after the others. progress, when set, is called after each layer.
func (s *Store) Upgrade(ctx context.Context, progress func(done, total int, id string)) (written int, err error) {
	ids, err := s.IDs()
	if err != nil {
		return 0, err
	}
	var errs []error
	for i, id := range ids {
		if ctx.Err() != nil {
			return written, errors.Join(append(errs, context.Cause(ctx))...)
		}
		wrote, err := s.upgrade(ctx, id)
		switch {
		case err != nil:
			errs = append(errs, err)
		case wrote:
			written++
		}
		if progress != nil {
			progress(i+1, len(ids), id)
		}
	}
	return written, errors.Join(errs...)
}

// Old counts the layers whose records Upgrade would rewrite.
func (s *Store) Old(ctx context.Context) (int, error) {
	records, err := s.List(ctx)
	n := 0
	for _, r := range records {
		if r.Version == oldRecordVersion {
			n++
		}
	}
	return n, err
}

func (s *Store) upgrade(ctx context.Context, id string) (wrote bool, err error) {
	unlock, err := s.lockLayer(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	r, err := s.record(id)
	if errors.Is(err, ErrNotFound) {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	if r.Kind != Fresh { // what an import left beside a fresh record is never opened
		if err := s.device(Image{Layer: id, Kind: r.Kind, UUID: r.UUID}, id).Upgrade(ctx); err != nil {
			return false, fmt.Errorf("upgrade layer %s: %w", id, err)
		}
	}
	if r.Version != oldRecordVersion {
		return false, nil
	}
	if r.Kind == Writable {
		if r.UUID, err = s.device(Image{Layer: id, Kind: Writable}, id).UUID(); err != nil {
			return false, fmt.Errorf("upgrade the record of layer %s: %w", id, err)
		}
	}
	if r.Parent != "" {
		parent, err := s.record(r.Parent)
		if err != nil {
			return false, fmt.Errorf("upgrade the record of layer %s: parent: %w", id, err)
		}
		if parent.Version == oldRecordVersion && parent.Kind == Writable && parent.ReadWrite { // its own turn may come later
			if parent.UUID, err = s.device(Image{Layer: parent.ID, Kind: Writable}, parent.ID).UUID(); err != nil {
				return false, fmt.Errorf("upgrade the record of layer %s: parent: %w", id, err)
			}
		}
		r.ParentUUID = parent.lastingUUID()
	}
	return true, s.writeRecord(r, "upgrade")
}

// CheckRecord returns ErrForged if a layer's record was not written with the key. Records
// without authentication (version 1), and unreadable ones, depend on no key: nil.
func CheckRecord(root, id string, key authentic.Keys) error {
	r, err := readRecordAt(root, id)
	if err != nil || r.Version == oldRecordVersion {
		return ignoreUnreadable(err)
	}
	if err := r.authentic(key); err != nil {
		return fmt.Errorf("record of layer %s: %w", id, err)
	}
	return nil
}

// RekeyRecord authenticates the record of a layer with next instead of old. It is one
// rename, and may be repeated. The caller holds the store's lock, so that no process
// has the layer open; leftovers of a crash are swept at the next start.
func RekeyRecord(root, id string, old, next authentic.Keys) (err error) {
	r, err := readRecordAt(root, id)
	if err != nil || r.Version == oldRecordVersion {
		return ignoreUnreadable(err)
	}
	switch err := r.authentic(next); {
	case err == nil:
		return nil
	case !errors.Is(err, ErrForged):
		return err
	}
	if err := r.authentic(old); err != nil {
		return fmt.Errorf("record of layer %s: %w", id, err)
	}
	if r, err = r.seal(next); err != nil {
		return err
	}
	data, err := r.encode()
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	err = durable.WriteFile(dir, tmpName(tmpPrefix, id), recordPath(id), data, 0o600)
	return errors.Join(err, dir.Close())
}

func ignoreUnreadable(err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func readRecordAt(root, id string) (Record, error) {
	if err := ValidateID(id); err != nil {
		return Record{}, err
	}
	reader, err := OpenReader(filepath.Clean(root))
	if err != nil {
		return Record{}, err
	}
	r, err := reader.Get(id)
	return r, errors.Join(err, reader.Close())
}

// Authenticate checks a record read by a Reader as an open store does: ErrForged,
// ErrOldFormat.
func (r *Reader) Authenticate(rec Record, keys crypt.KeySource) error { return authenticate(rec, keys) }
