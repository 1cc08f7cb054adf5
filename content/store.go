package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/internal/flock"
	"layervault/internal/mounts"
	"layervault/persist"
)

// Digest is a SHA-256 in 64 hex digits. It is used as a file's name: ParseDigest makes it.
type Digest string

// ParseDigest reads 64 hex digits in lower case, with or without "sha256:" before them.
func ParseDigest(text string) (Digest, error) {
	digits := strings.TrimPrefix(text, "sha256:")
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != sha256.Size || strings.ToLower(digits) != digits {
		return "", fmt.Errorf("%q: %w", text, ErrBadDigest)
	}
	return Digest(digits), nil
}

// String is the digest as OCI writes it.
func (d Digest) String() string { return "sha256:" + string(d) }

// The places in the areas.
const (
	partSuffix   = ".part"
	verifyingDir = "verifying"
	verifiedDir  = "verified"
	storingDir   = ".storing"
	blobsDir     = "blobs/sha256"
)

// Config makes a Store.
type Config struct {
	Layout persist.Layout
	Agents persist.Agents
	// Floor is how much of the disk stays free, in bytes; 0 for area.FloorOf.
	Floor int64
	// Progress, when set, is called while content is copied; total is 0 when it is not known.
	Progress func(done, total int64)
	// Checkpoint, if set, is called at each step at which a crash leaves another state. Its
	// error ends the operation there, as a crash does.
	Checkpoint func(step string) error
}

// Store is the content in the areas. It holds no state, and is safe for concurrent use.
type Store struct{ cfg Config }

// New makes the store.
func New(cfg Config) *Store { return &Store{cfg: cfg} }

// Owner is the user of an area.
func (s *Store) Owner(a persist.Area) persist.Owner { return s.cfg.Agents.Of(a) }

// crashed is an error that ends an operation as a crash does: nothing is cleaned up.
type crashed struct{ error }

func (c crashed) Unwrap() error { return c.error }

func (s *Store) step(at string) error {
	if s.cfg.Checkpoint == nil {
		return nil
	}
	if err := s.cfg.Checkpoint(at); err != nil {
		return crashed{err}
	}
	return nil
}

// enter opens an area. One that is not mounted is area.ErrClosed: what lies below is a directory
// on the unencrypted disk.
func (s *Store) enter(a persist.Area) (*os.Root, error) {
	at := s.cfg.Layout.Area(a)
	mounted, err := mounts.IsMounted(at)
	if err == nil && !mounted {
		err = fmt.Errorf("%w; run layervault persist open", area.ErrClosed)
	}
	if err != nil {
		return nil, fmt.Errorf("area %s: %w", a, err)
	}
	root, err := os.OpenRoot(at)
	if err != nil {
		return nil, fmt.Errorf("area %s: %w", a, err)
	}
	if err := inPlace(at, root); err != nil {
		return nil, errors.Join(fmt.Errorf("area %s: %w", a, err), root.Close())
	}
	return root, nil
}

// inPlace wants an open folder to be what is mounted at an area's place. The area may have been
// closed in between, and a link may lead to what is mounted elsewhere.
func inPlace(at string, root *os.Root) error {
	here, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if here.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%w: %s is a link; remove the link", area.ErrInTheWay, at)
	}
	inside, err := root.Stat(".")
	if err != nil {
		return err
	}
	above, err := os.Stat(filepath.Dir(at))
	if err != nil {
		return err
	}
	if !os.SameFile(here, inside) || deviceOf(above) == deviceOf(inside) {
		return area.ErrClosed
	}
	return nil
}

func deviceOf(info fs.FileInfo) uint64 {
	return uint64(info.Sys().(*syscall.Stat_t).Dev) //nolint:unconvert // 32 bit has another type
}

// CheckUser is a *UserError unless this process runs as the owner of an area.
func (s *Store) CheckUser(step string, a persist.Area) error {
	if have, want := os.Geteuid(), s.cfg.Agents.Of(a).UID; have != want {
		return &UserError{Step: step, Have: have, Want: want}
	}
	return nil
}

// enterAs is enter for a step that only the area's owner may do.
func (s *Store) enterAs(step string, a persist.Area) (*os.Root, error) {
	if err := s.CheckUser(step, a); err != nil {
		return nil, err
	}
	return s.enter(a)
}

// Source opens what a step left for the next one. Whoever may enter both areas does it. Error:
// ErrNotFound.
func (s *Store) Source(a persist.Area, d Digest) (*os.File, error) {
	name := string(d)
	if a == persist.Verifier {
		name = verifiedDir + "/" + name
	}
	root, err := s.enter(a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	// Not blocking: an agent may have put a pipe there.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s in area %s: %w", d, a, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("%s in area %s: %w", d, a, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s in area %s: %w", d, a, ErrNotFile), err, f.Close())
	}
	return f, nil
}

// Drop removes what a step left for the next one, which has it now. It runs as the area's owner.
// Missing is no error.
func (s *Store) Drop(a persist.Area, d Digest) error {
	name := string(d)
	if a == persist.Verifier {
		name = verifiedDir + "/" + name
	}
	root, err := s.enterAs("remove from "+string(a), a)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return remove(root, name)
}

func remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockPart opens an unfinished file, and keeps other processes off it. Error: ErrBusy.
func lockPart(root *os.Root, name string, d Digest) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		// Complete but for its name when a crash came: it has its final mode.
		if err = root.Chmod(name, 0o600); err == nil {
			f, err = root.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotFile
	}
	if err == nil {
		err = flock.TryLock(f, flock.Exclusive)
	}
	if err == nil {
		// Whoever had the lock may have renamed or removed the file.
		now, statErr := root.Lstat(name)
		if statErr != nil || !os.SameFile(info, now) {
			err = flock.ErrHeld
		}
	}
	if errors.Is(err, flock.ErrHeld) {
		err = fmt.Errorf("%s: %w", d, ErrBusy)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// chunk is how much is read at once, in bytes: enough that the calls between two reads do not
// count, and little enough for three agents on a small device.
const chunk = 1 << 20

// room refuses to write more than the disk has above its floor.
func (s *Store) room(n int) error {
	room, err := area.RoomOf(s.cfg.Layout, s.cfg.Floor)
	if err != nil {
		return err
	}
	if room.Above() < int64(n) {
		return fmt.Errorf("%w: %d bytes are free, and %d stay so; remove content (layervault content gc), or lower the setting floor", area.ErrFloor, room.Free, room.Floor)
	}
	return nil
}

// write writes bytes at a place of a file, and adds them to the digest.
func (s *Store) write(f *os.File, at int64, data []byte, sum hash.Hash) error {
	if err := s.room(len(data)); err != nil {
		return err
	}
	if _, err := f.WriteAt(data, at); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w: %w", area.ErrFloor, err)
		}
		return err
	}
	sum.Write(data)
	return nil
}

func (s *Store) progress(done, total int64) {
	if s.cfg.Progress != nil {
		s.cfg.Progress(done, total)
	}
}

// copyFrom appends everything of a reader to a file that has at bytes, of total or (0) an unknown
// number. It returns how many bytes the file has then; the error is that of the reader or of a
// write.
func (s *Store) copyFrom(ctx context.Context, r io.Reader, f *os.File, at, total int64, sum hash.Hash) (int64, error) {
	buf := make([]byte, chunk)
	for {
		if ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if n > 0 {
			if err := s.write(f, at, buf[:n], sum); err != nil {
				return at, err
			}
			at += int64(n)
			s.progress(at, total)
		}
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}

func digestOf(sum hash.Hash) Digest { return Digest(hex.EncodeToString(sum.Sum(nil))) }
