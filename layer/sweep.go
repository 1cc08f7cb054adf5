package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"layervault/crypt"
)

// sweep discards everything with a temporary name. A leftover that cannot be removed is
// reported, but does not prevent opening the vault: it is never read.
func (s *Store) sweep(ctx context.Context) error {
	names, err := s.readRoot()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, tmpPrefix) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if strings.HasPrefix(name, resealPrefix) {
			gone, err := s.retire(ctx, name)
			if err == nil && !gone {
				s.log.InfoContext(ctx, "an image that was sealed anew is still used; it is erased later", "name", name)
			}
			if err != nil {
				s.log.ErrorContext(ctx, "cannot erase an image that was sealed anew; it is tried again at the next start", "name", name, "error", err)
			}
			continue
		}
		if err := s.discard(ctx, name); err != nil {
			s.log.ErrorContext(ctx, "cannot remove leftover of an earlier run; remove it by hand", "path", s.cfg.Root+"/"+name, "error", err)
			continue
		}
		s.log.InfoContext(ctx, "removed leftover of an earlier run", "name", name)
	}
	return nil
}

// discard destroys the image in a directory, then the directory. Not there is
// no error. A directory from outside (symbolic link, plain file) is only unlinked.
func (s *Store) discard(ctx context.Context, name string) error {
	fi, err := s.root.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("discard %s: %w", name, err)
	}
	var errs []error
	if fi.IsDir() {
		// Crypto-erase first: what is unlinked but was readable stays readable.
		if _, err := s.root.Lstat(name + "/" + ImageName); err == nil {
			if err := s.device(Image{Kind: Sealed}, name).Remove(ctx); err != nil {
				errs = append(errs, fmt.Errorf("erase the image in %s: %w", name, err))
			}
		}
		// And what package crypt had not finished.
		if err := crypt.SweepDir(ctx, filepath.Join(s.cfg.Root, name)); err != nil {
			errs = append(errs, fmt.Errorf("erase the image in %s: %w", name, err))
		}
	}
	if err := s.root.RemoveAll(name); err != nil {
		errs = append(errs, fmt.Errorf("discard %s: %w", name, err))
	}
	return errors.Join(errs...)
}
