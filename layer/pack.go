package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/layer/treetar"
)

// pack makes a sealed image of a layer's content in a directory of the root. The content goes
// through memory as a tar. The new image is mounted and read again, to its last byte: the tar of
// what it shows must be the same.
func (s *Store) pack(ctx context.Context, r Record, dir string) (made crypt.ImportResult, err error) {
	view, err := s.Open(ctx, []Record{r})
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, view.Close(context.WithoutCancel(ctx))) }()
	if err := mounts.MakeReadOnly(view.mountPoint(0)); err != nil { // reading must not set times
		return made, err
	}
	was, is := sha256.New(), sha256.New()
	image := Image{Layer: r.ID, Kind: Sealed, Literal: true}
	err = stream(s.exactly(ctx, view.Content(0)), func(tar io.Reader) (err error) {
		made, err = s.device(image, dir).Import(ctx, io.TeeReader(tar, was))
		return err
	})
	if err != nil {
		return made, err
	}
	image.UUID = made.UUID
	err = s.mounted(ctx, s.device(image, dir), func(content string) error {
		return stream(s.exactly(ctx, content), func(tar io.Reader) error {
			_, err := io.Copy(is, tar)
			return err
		})
	})
	if err == nil && !bytes.Equal(was.Sum(nil), is.Sum(nil)) {
		err = ErrDiffers
	}
	return made, err
}

func (s *Store) exactly(ctx context.Context, content string) func(io.Writer) error {
	return func(w io.Writer) error { return treetar.Exact(ctx, w, content, s.log) }
}

// mounted calls f with the content of an image that is mounted for that time.
func (s *Store) mounted(ctx context.Context, d Device, f func(content string) error) (err error) {
	at, err := os.MkdirTemp(s.cfg.Scratch, "r")
	if err != nil {
		return err
	}
	defer func() {
		if detachErr := mounts.DetachAll(at); detachErr != nil {
			err = errors.Join(err, detachErr) // never removed while something is mounted there
			return
		}
		err = errors.Join(err, os.Remove(at))
	}()
	if err := d.Mount(ctx, at); err != nil {
		return fmt.Errorf("read the new image: %w", err)
	}
	return f(filepath.Join(at, crypt.DirDiff))
}

// EraseReplaced erases images that Reseal replaced and that nobody uses any more. left counts those
// that are still used.
func (s *Store) EraseReplaced(ctx context.Context) (left int, err error) {
	unlock, err := s.lockReseal(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	names, err := s.readRoot()
	if err != nil {
		return 0, err
	}
	s.setWaiting(false) // until one is found
	var errs []error
	for _, name := range names {
		if !strings.HasPrefix(name, resealPrefix) {
			continue
		}
		switch gone, err := s.retire(ctx, name); {
		case err != nil:
			s.setWaiting(true)
			errs = append(errs, err)
		case gone:
			s.log.InfoContext(ctx, "erased a replaced image", "name", name)
		default:
			left++
		}
	}
	return left, errors.Join(errs...)
}

// discardReplaced erases what Reseal left of a layer that is being removed, whoever uses it: the
// key of a removed layer is destroyed in all its images.
func (s *Store) discardReplaced(ctx context.Context, id string) error {
	names, err := s.readRoot()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, resealPrefix+id+"-"); ok && len(rest) == tmpLetters {
			if s.isPacking(name) {
				continue // who packs it finds the layer gone, and discards it
			}
			errs = append(errs, s.discard(ctx, name))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) setPacking(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packing = dir
}

func (s *Store) isPacking(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packing == dir
}

// HasReplaced says whether images wait for EraseReplaced.
func (s *Store) HasReplaced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

func (s *Store) setWaiting(waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = waiting
}
