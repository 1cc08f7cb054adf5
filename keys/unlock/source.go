package unlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"layervault/keys"
)

// Source is an open tier for a process that keeps it for months: it derives image
// passphrases from the ring's current key. Without it, a process that unlocked before a
// rotation, and waited for the store during it, would make images with the old key,
// which nothing opens.
type Source struct {
	cfg Config

	mu   sync.Mutex
	key  *keys.TierKey
	seen fileID
	// floor is the ring's, once the key proved that ring; it never goes down in a process.
	floor int
}

// newest is the floor if no ring could be read since the start: older formats are
// refused, because a missing ring must not lower the floor.
const newest = 2

// reopenTimeout bounds the unlocking after a rotation; see keys' bound of one slot.
const reopenTimeout = 2 * time.Minute

// fileID identifies one version of the ring: every write is a new file.
type fileID struct {
	ino   uint64
	mtime unix.Timespec
}

func identify(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileID{ino: st.Ino, mtime: st.Mtim}, nil
}

// NewSource takes over key, which cfg opened: Close closes it.
func NewSource(cfg Config, key *keys.TierKey) *Source { return &Source{cfg: cfg, key: key} }

// Passphrase is keys.TierKey.Passphrase. Further errors are those of Open, if the tier
// key was rotated and the new one is not available.
func (s *Source) Passphrase(format int, kind, id, imageUUID string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return nil, keys.ErrClosed
	}
	if err := s.follow(); err != nil {
		return nil, err
	}
	return s.key.Passphrase(format, kind, id, imageUUID)
}

// MAC is keys.TierKey.MAC, with Passphrase's errors.
func (s *Source) MAC(what string, data []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return nil, keys.ErrClosed
	}
	if err := s.follow(); err != nil {
		return nil, err
	}
	return s.key.MAC(what, data)
}

// Floor is the lowest format of images and records that the tier still accepts,
// according to the ring verified with the current key.
func (s *Source) Floor() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != nil {
		// An unreadable ring does not invalidate the verified floor; the next use of the key
		// reports the error.
		_ = s.follow()
	}
	if s.floor == 0 {
		return newest
	}
	return s.floor
}

// SetFloor raises the lowest format that the tier takes (keys.Ring.SetFloor), and makes a
// ring of version 1 one of version 2. A ring that has the floor already is not written to.
// Errors: those of keys.Ring.SetFloor, and keys.ErrUnfinished while a rotation waits to be
// finished: some images want the key that it replaces.
func (s *Source) SetFloor(ctx context.Context, floor int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return keys.ErrClosed
	}
	if err := s.follow(); err != nil {
		return err
	}
	ring, err := s.cfg.Load(ctx)
	if err != nil {
		return err
	}
	if err := ring.Proves(s.key); err != nil {
		return err
	}
	if ring.Rotating() {
		return fmt.Errorf("%w: tier key rotation is pending", keys.ErrUnfinished)
	}
	if ring.Version() > 1 && ring.Floor() >= floor {
		return nil
	}
	if err := ring.SetFloor(ctx, s.key, floor); err != nil {
		return err
	}
	return s.follow()
}

// follow checks whether the ring was written since, and adopts its key if that changed.
// A missing or unreadable ring changes nothing: the current key stays valid.
func (s *Source) follow() error {
	now, err := identify(s.cfg.RingPath())
	if err != nil || now == s.seen {
		return nil // see above
	}
	ctx, cancel := context.WithTimeout(context.Background(), reopenTimeout)
	defer cancel()
	ring, err := s.cfg.Load(ctx)
	if err != nil {
		return nil // see above
	}
	switch err := ring.Proves(s.key); {
	case err == nil:
	case errors.Is(err, keys.ErrWrongKey):
		key, opened, _, err := Open(ctx, s.cfg)
		if err != nil {
			return fmt.Errorf("tier key was rotated: %w", err)
		}
		ring = opened
		if s.cfg.Log != nil {
			s.cfg.Log.Info("tier key was rotated; using the new key", "ring", ring.Path())
		}
		old := s.key
		s.key = key
		if err := old.Close(); err != nil {
			return err
		}
	default:
		return err
	}
	s.seen = now
	s.floor = max(s.floor, ring.Floor())
	return nil
}

// Close wipes the key.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == nil {
		return nil
	}
	err := s.key.Close()
	s.key = nil
	return err
}
