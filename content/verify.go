package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"layervault/internal/durable"
	"layervault/persist"
)

func dirOf(name string) string { return path.Dir(name) }

// Verify copies a download, which Source opened, to the verifier's area, and keeps it there if it
// has its digest: ErrDigest. Then the download is to be dropped, in both cases. It runs as the
// verifier.
func (s *Store) Verify(ctx context.Context, d Digest, source *os.File) (Result, error) {
	root, err := s.enterAs("verify", persist.Verifier)
	if err != nil {
		return Result{Digest: d}, err
	}
	defer func() { _ = root.Close() }()
	for _, dir := range []string{verifyingDir, verifiedDir} {
		if err := makeDir(root, dir, 0o700); err != nil {
			return Result{Digest: d}, fmt.Errorf("verify %s: %w", d, err)
		}
	}
	res, err := s.take(ctx, root, d, source, move{verifyingDir + "/" + string(d), verifiedDir + "/" + string(d), 0o400})
	if err != nil {
		return res, fmt.Errorf("verify %s: %w", d, err)
	}
	return res, nil
}

// Verified says whether content is verified, and Stored whether it is in the store: a step that
// was interrupted after its end finds nothing to copy. Both are for whoever may look.
func (s *Store) Verified(d Digest) (bool, error) {
	return s.has(persist.Verifier, verifiedDir+"/"+string(d))
}

// Stored says whether content is in the store.
func (s *Store) Stored(d Digest) (bool, error) { return s.has(persist.Case, blobsDir+"/"+string(d)) }

func (s *Store) has(a persist.Area, name string) (bool, error) {
	root, err := s.enter(a)
	if err != nil {
		return false, err
	}
	defer func() { _ = root.Close() }()
	_, err = root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Keep copies verified content, which Source opened, to the store, where containerd finds it. Then
// the verified copy is to be dropped. It runs as the owner of the case.
func (s *Store) Keep(ctx context.Context, d Digest, source *os.File) (res Result, err error) {
	res.Digest = d
	root, err := s.enterAs("store", persist.Case)
	if err != nil {
		return res, err
	}
	defer func() {
		_ = root.Close()
		if err != nil {
			err = fmt.Errorf("store %s: %w", d, err)
		}
	}()
	if err := errors.Join(makeDir(root, storingDir, 0o700), makeDir(root, "blobs", 0o755), makeDir(root, blobsDir, 0o755)); err != nil {
		return res, err
	}
	blob := blobsDir + "/" + string(d)
	if f, err := root.Open(blob); err == nil {
		defer func() { _ = f.Close() }()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err == nil && digestOf(sum) != d {
			err = fmt.Errorf("%w: %s; remove it, then store it again", ErrDamaged, blob)
		}
		return Result{Digest: d, Bytes: n, Already: true}, err
	}
	return s.take(ctx, root, d, source, move{storingDir + "/" + string(d), blob, 0o444})
}

// makeDir makes a directory that is durable.
func makeDir(root *os.Root, name string, mode fs.FileMode) error {
	err := root.Mkdir(name, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(root.Chmod(name, mode), durable.SyncDir(root, dirOf(name)))
}

// move is how a file gets its place: under a first name while it is incomplete, then under
// another, with a mode.
type move struct {
	from, to string
	mode     fs.FileMode
}

// take copies a file into an area, if it has its digest.
func (s *Store) take(ctx context.Context, root *os.Root, d Digest, source *os.File, m move) (res Result, err error) {
	res.Digest = d
	if info, err := root.Lstat(m.to); err == nil {
		return Result{Digest: d, Bytes: info.Size(), Already: true}, nil
	}
	info, err := source.Stat()
	if err != nil {
		return res, err
	}
	f, err := lockPart(root, m.from, d)
	if err != nil {
		return res, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil && !isCrash(err) {
			err = errors.Join(err, remove(root, m.from))
		}
	}()
	if err := f.Truncate(0); err != nil {
		return res, err
	}
	sum := sha256.New()
	if res.Bytes, err = s.copyFrom(ctx, source, f, 0, info.Size(), sum); err != nil {
		return res, err
	}
	if err := s.step("copied"); err != nil {
		return res, err
	}
	if got := digestOf(sum); got != d {
		return res, fmt.Errorf("%w: it has %s", ErrDigest, got)
	}
	if err := f.Chmod(m.mode); err != nil {
		return res, err
	}
	if err := s.finish(root, f, m.from, m.to); err != nil {
		return res, err
	}
	return res, durable.SyncDir(root, dirOf(m.from))
}

func isCrash(err error) bool {
	_, is := errors.AsType[crashed](err)
	return is
}
