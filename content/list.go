package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"layervault/internal/flock"
	"layervault/persist"
)

// The states of content.
const (
	StateReceiving = "receiving" // a part of it is there
	StateReceived  = "received"
	StateVerifying = "verifying"
	StateVerified  = "verified"
	StateStoring   = "storing"
	StateStored    = "stored"
)

// Object is one file of content. The JSON names are those of content list --json.
type Object struct {
	Digest  Digest       `json:"digest"`
	State   string       `json:"state"`
	Bytes   int64        `json:"bytes"`
	Changed time.Time    `json:"changed"`
	Area    persist.Area `json:"area"`

	name string // within the area
}

// places are the folders of content, in the order of its way.
var places = []struct {
	area               persist.Area
	dir, suffix, state string
}{
	{persist.Downloader, ".", partSuffix, StateReceiving},
	{persist.Downloader, ".", "", StateReceived},
	{persist.Verifier, verifyingDir, "", StateVerifying},
	{persist.Verifier, verifiedDir, "", StateVerified},
	{persist.Case, storingDir, "", StateStoring},
	{persist.Case, blobsDir, "", StateStored},
}

// List lists all content, in the order of its way. Areas that are closed, or closed to the
// caller, are named in the error, beside the content of the others.
func (s *Store) List(ctx context.Context) ([]Object, error) {
	all := []Object{}
	var errs []error
	for _, a := range persist.Areas {
		root, err := s.enter(a)
		if err == nil {
			var found []Object
			found, err = list(ctx, root, a)
			all = append(all, found...)
			err = errors.Join(err, root.Close())
		}
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// list lists the content of one area.
func list(ctx context.Context, root *os.Root, a persist.Area) (found []Object, err error) {
	for _, p := range places {
		if p.area != a {
			continue
		}
		entries, err := fs.ReadDir(root.FS(), p.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("list area %s: %w", a, err)
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return found, context.Cause(ctx)
			}
			name, is := strings.CutSuffix(e.Name(), p.suffix)
			d, err := ParseDigest(name)
			if !is || err != nil || string(d) != name || !e.Type().IsRegular() {
				continue
			}
			info, err := e.Info()
			if err != nil {
				continue // went away meanwhile
			}
			found = append(found, Object{
				Digest: d, State: p.state, Bytes: info.Size(), Changed: info.ModTime().UTC(), Area: a, name: strings.TrimPrefix(p.dir+"/"+e.Name(), "./"),
			})
		}
	}
	return found, nil
}

// Policy says what GC removes.
type Policy struct {
	// Older is the age from which on content is removed.
	Older time.Duration
	// Keep are digests that are kept whatever their age.
	Keep []Digest
	// Stored: the store too. What containerd refers to is not known here, and must be in Keep.
	Stored bool
	DryRun bool
	Now    time.Time // the zero value for the time
}

// Removed is what GC did with one file.
type Removed struct {
	Object
	Error string `json:"error,omitempty"` // why it is still there
}

// GC removes content that nobody asked to keep. What a process works at stays.
func (s *Store) GC(ctx context.Context, p Policy) ([]Removed, error) {
	now := p.Now
	if now.IsZero() {
		now = time.Now()
	}
	done := []Removed{}
	all, err := s.List(ctx)
	if err != nil {
		return done, err
	}
	for _, o := range all {
		if now.Sub(o.Changed) < p.Older || slices.Contains(p.Keep, o.Digest) || o.State == StateStored && !p.Stored {
			continue
		}
		r := Removed{Object: o}
		if !p.DryRun {
			if err := s.collect(o); err != nil {
				r.Error = err.Error()
			}
		}
		done = append(done, r)
	}
	return done, nil
}

// collect removes one file, unless it changed since it was listed.
func (s *Store) collect(o Object) (err error) {
	root, err := s.enter(o.Area)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f, err := root.Open(o.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if flock.TryLock(f, flock.Exclusive) != nil {
		return fmt.Errorf("%s: %w", o.Digest, ErrBusy)
	}
	if info, err := f.Stat(); err != nil || !info.ModTime().UTC().Equal(o.Changed) {
		return errors.Join(fmt.Errorf("%s: %w", o.Digest, ErrBusy), err)
	}
	return remove(root, o.name)
}
