package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/internal/durable"
)

// store is the ring on disk: path, path.bak and path.lock.
type store struct {
	path string
	log  *slog.Logger
	// checkpoint is Rotation.Checkpoint, nil otherwise.
	checkpoint func(step string) error
}

func (s store) backup() string { return s.path + ".bak" }

// read returns the ring, from the first copy if it is intact, else from the second.
// needsRepair: the other copy should be rewritten. Nothing is changed.
func (s store) read() (body ringBody, needsRepair bool, err error) {
	main, mainErr := readCopy(s.path)
	back, backErr := readCopy(s.backup())
	switch {
	case mainErr == nil && backErr == nil:
		// The first copy is written first, so it is the newer one, or was restored by a
		// person. The backup of another ring must not be overwritten.
		return main, main.ID == back.ID && main.Generation != back.Generation, nil
	case errors.Is(mainErr, ErrNewerRing):
		return ringBody{}, false, fmt.Errorf("%s: %w", s.path, mainErr)
	case mainErr == nil:
		return main, !errors.Is(backErr, ErrNewerRing), nil
	case errors.Is(backErr, ErrNewerRing):
		return ringBody{}, false, fmt.Errorf("%s: %w", s.backup(), backErr)
	case backErr == nil:
		s.log.Warn("key ring is damaged; reading the backup copy", "ring", s.path, "reason", mainErr, "backup", s.backup())
		return back, true, nil
	case errors.Is(mainErr, fs.ErrNotExist) && errors.Is(backErr, fs.ErrNotExist):
		return ringBody{}, false, fmt.Errorf("%w at %s", ErrNoRing, s.path)
	case errors.Is(mainErr, errDamagedCopy) || errors.Is(backErr, errDamagedCopy):
		return ringBody{}, false, fmt.Errorf("%w: %s: %w; %s: %w",
			ErrDamagedRing, s.path, mainErr, s.backup(), backErr)
	default:
		return ringBody{}, false, fmt.Errorf("read key ring: %w", mainErr)
	}
}

func readCopy(path string) (ringBody, error) {
	f, err := os.Open(path)
	if err != nil {
		return ringBody{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRingBytes+1))
	if err != nil {
		return ringBody{}, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxRingBytes {
		return ringBody{}, fmt.Errorf("%w: longer than %d bytes", errDamagedCopy, maxRingBytes)
	}
	return decodeRing(data)
}

// write makes both copies durable, the first one first. The caller holds the lock.
func (s store) write(body ringBody) error {
	data, err := encodeRing(body)
	if err != nil {
		return err
	}
	if _, err := decodeRing(data); err != nil { // never write what we could not read
		return fmt.Errorf("refuse to write key ring: %w", err)
	}
	if back, err := readCopy(s.backup()); err == nil && back.ID != body.ID {
		// Another ring was restored; its backup may be the last copy.
		aside := s.path + "." + back.ID + ".bak"
		s.log.Warn("keeping the backup of another key ring", "as", aside)
		if err := os.Rename(s.backup(), aside); err != nil {
			return fmt.Errorf("keep the backup of another key ring: %w", err)
		}
	}
	for _, path := range []string{s.path, s.backup()} {
		if s.checkpoint != nil {
			if err := s.checkpoint("write " + filepath.Base(path)); err != nil {
				return err
			}
		}
		if err := s.writeDurable(path, data); err != nil {
			return fmt.Errorf("write key ring: %w", err)
		}
	}
	return nil
}

// writeDurable replaces path by data, or leaves it unchanged. The old content of path is
// overwritten: a removed slot must not remain in free blocks. Until then the old file has a
// second, temporary name, by which sweep finds it after a crash.
func (s store) writeDurable(path string, data []byte) error {
	old, err := keepOld(path)
	if err != nil {
		return err
	}
	if err := durable.Replace(path, durable.TempName(path), data); err != nil {
		return errors.Join(err, dropOld(old, path))
	}
	if old == "" {
		return nil
	}
	if err := wipe(old); err != nil { // written all the same; sweep tries again
		s.log.Warn("cannot overwrite the replaced copy of the key ring", "path", old, "err", err)
	}
	return nil
}

// dropOld removes the second name of a file that was not replaced. After a failure that came
// later than the rename the name stays: sweep overwrites the replaced file by it.
func dropOld(old, path string) error {
	if old == "" {
		return nil
	}
	kept, err := os.Lstat(old)
	if err != nil {
		return err
	}
	present, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(kept, present) {
		return nil
	}
	return os.Remove(old)
}

// keepOld gives the file at path a second, temporary name; "" if there is no file.
func keepOld(path string) (string, error) {
	name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".tmp-%s-old-%d", filepath.Base(path), os.Getpid()))
	if err := wipe(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	err := os.Link(path, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return name, err
}

// wipe overwrites and removes a file that has no other name. If the file system or the
// disk relocates blocks, the old blocks stay: see Ring.Remove.
func wipe(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Nlink == 1 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		if _, err := f.Write(make([]byte, min(st.Size, maxRingBytes))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// sweep removes temporary files that a crash left. The caller holds the lock, so
// no writer is using them.
func (s store) sweep() {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.path), ".tmp-"+filepath.Base(s.path)+"*"))
	for _, path := range left {
		if err := wipe(path); err != nil {
			s.log.Warn("cannot remove a leftover of the key ring", "path", path, "err", err)
		}
	}
}
