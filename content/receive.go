package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"layervault/area"
	"layervault/internal/durable"
	"layervault/persist"
)

// Result is what a step did.
type Result struct {
	Digest Digest `json:"digest"`
	Bytes  int64  `json:"bytes"`
	// Already: it had been done before; nothing was copied.
	Already bool `json:"already,omitempty"`
	// Resumed is how much was there from an earlier try.
	Resumed int64 `json:"resumed_bytes,omitempty"`
}

// Announced is what is known of a stream.
type Announced struct {
	// Offset is the place in the content at which the stream begins. At 0 the stream is the
	// whole content: what is there of it already is compared, and not written again.
	Offset int64
	// Size of the whole content, 0 if it is not known. Only with it a stream that broke off can
	// be told from content that has another digest.
	Size int64
}

// Receive writes a stream to the downloader's area. What has come is kept when the stream breaks
// off (ErrInterrupted), ctx ends, or the disk is full (area.ErrFloor): the next Receive goes on.
func (s *Store) Receive(ctx context.Context, d Digest, stream io.Reader, known Announced) (res Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("receive %s: %w", d, err)
		}
	}()
	res.Digest = d
	root, err := s.enterAs("receive", persist.Downloader)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if info, err := root.Lstat(string(d)); err == nil {
		return Result{Digest: d, Bytes: info.Size(), Already: true}, nil
	}
	part := string(d) + partSuffix
	f, err := lockPart(root, part, d)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if res.Resumed, err = s.resume(ctx, f, stream, known, sum); err == nil {
		res.Bytes, err = s.copyFrom(ctx, stream, f, res.Resumed, known.Size, sum)
	}
	if err != nil {
		return res, errors.Join(whyEnded(ctx, err), f.Sync())
	}
	if known.Size > 0 && res.Bytes < known.Size {
		return res, errors.Join(fmt.Errorf("%w: %d of %d bytes", ErrInterrupted, res.Bytes, known.Size), f.Sync())
	}
	if known.Size > 0 && res.Bytes > known.Size {
		return res, errors.Join(fmt.Errorf("%w: %d bytes, announced were %d", ErrSize, res.Bytes, known.Size), remove(root, part))
	}
	if got := digestOf(sum); got != d {
		return res, errors.Join(fmt.Errorf("%w: it has %s", ErrDigest, got), remove(root, part))
	}
	return res, s.finish(root, f, part, string(d))
}

// whyEnded is the error of a stream that ended before its content did.
func whyEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrOffset) || errors.Is(err, ErrInterrupted) || errors.Is(err, area.ErrFloor) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInterrupted, err)
}

// finish makes a file that is complete durable, and gives it its name.
func (s *Store) finish(root *os.Root, f *os.File, from, to string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := s.step("synced"); err != nil {
		return err
	}
	if err := root.Rename(from, to); err != nil {
		return err
	}
	if err := durable.SyncDir(root, dirOf(to)); err != nil {
		return err
	}
	return s.step("renamed")
}

// resume prepares a partial file for what is still to come, and returns how much of the content it
// has. The digest of that is computed from the file.
func (s *Store) resume(ctx context.Context, f *os.File, stream io.Reader, known Announced, sum hash.Hash) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	have := info.Size()
	switch {
	case known.Offset < 0 || known.Offset > have:
		return 0, fmt.Errorf("%w: %d; %d bytes are there, so the stream must begin at 0 to %d", ErrOffset, known.Offset, have, have)
	case known.Offset > 0:
		if _, err := io.Copy(sum, io.NewSectionReader(f, 0, known.Offset)); err != nil {
			return 0, err
		}
		return known.Offset, f.Truncate(known.Offset)
	}
	at, err := s.compare(ctx, f, stream, have, sum)
	if err == nil && at < have && at < known.Size {
		err = fmt.Errorf("%w: the stream ended at byte %d", ErrInterrupted, at) // what came before is more
	}
	if err != nil {
		return at, err
	}
	return at, f.Truncate(at)
}

// compare reads as much of a stream as the file has, and returns how much both have in common.
// What the stream has beyond that, within one read, is written.
func (s *Store) compare(ctx context.Context, f *os.File, stream io.Reader, have int64, sum hash.Hash) (at int64, err error) {
	ours, theirs := make([]byte, chunk), make([]byte, chunk)
	for at < have {
		if ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		n, readErr := stream.Read(theirs[:min(chunk, have-at)])
		if _, err := f.ReadAt(ours[:n], at); err != nil {
			return at, err
		}
		if !bytes.Equal(ours[:n], theirs[:n]) {
			return at + int64(n), s.write(f, at, theirs[:n], sum)
		}
		sum.Write(theirs[:n])
		at += int64(n)
		s.progress(at, 0)
		if errors.Is(readErr, io.EOF) {
			return at, nil
		}
		if readErr != nil {
			return at, readErr
		}
	}
	return at, nil
}
