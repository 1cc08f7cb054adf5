package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"layervault/crypt"
	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
)

// Revisions are the revision that the host runs, and those that it ran.
type Revisions struct {
	Version int             `json:"version"`
	Current string          `json:"current,omitempty"`
	Known   []KnownRevision `json:"known"` // the latest last
	// MAC authenticates the rest by the vault's key, see package authentic.
	MAC string `json:"mac,omitempty"`
}

// KnownRevision is a revision that the host ran, or runs.
type KnownRevision struct {
	Name string    `json:"name"`
	Set  time.Time `json:"set"` // when it last became the current one
}

// The versions of revisions. Version 1 has no authentication, and is written only where
// there is no vault.
const (
	revisionsVersion    = 2
	oldRevisionsVersion = 1
)

// revisionsFormat is the format of revisions. A revision has about 200 bytes.
var revisionsFormat = durable.Format{Oldest: oldRevisionsVersion, Newest: revisionsVersion, MaxSize: 16 << 20}

// revisionsKind is the kind of revisions in their authentication.
const revisionsKind = "revision"

func (r Revisions) seal(keys authentic.Keys) (Revisions, error) {
	r.Version = revisionsVersion
	err := authentic.Seal(keys, revisionsKind, &r, &r.MAC)
	return r, err
}

func (r Revisions) authentic(keys authentic.Keys) error {
	return authentic.Verify(keys, revisionsKind, &r, &r.MAC)
}

// byTheVault are options of a volume that the vault's key authenticates.
var byTheVault = Options{Tier: persist.Clear}

// authenticRevisions is Revisions, authenticated by the vault's key. While the vault is locked
// the result is not authenticated, or an error if strictly is set.
func (s *Store) authenticRevisions(ctx context.Context, strictly bool) (Revisions, error) {
	r, err := s.Revisions()
	if err != nil {
		return r, err
	}
	if r.Current == "" && len(r.Known) == 0 {
		return r, nil // none was set
	}
	keys, err := s.keysFor(ctx, byTheVault)
	switch {
	case err != nil && !strictly && ctx.Err() == nil:
		s.log.WarnContext(ctx, "vault is locked; using the host's revision without authentication", "revision", r.Current, "reason", err)
		return r, nil
	case err != nil:
		return r, fmt.Errorf("read the host's revision: %w", err)
	case keys == nil:
		return r, nil
	case r.Version == revisionsVersion:
		err = r.authentic(keys)
	case keys.Floor() > oldRevisionsVersion:
		err = ErrOldFormat
	}
	if err != nil {
		return r, fmt.Errorf("%w: %s/%s: %w", ErrRevisions, s.state.Name(), revisionFile, err)
	}
	return r, nil
}

// Revisions reads the revision that the host runs, without authentication.
func (s *Store) Revisions() (Revisions, error) {
	none := Revisions{Version: oldRevisionsVersion, Known: []KnownRevision{}}
	data, err := s.state.ReadFile(revisionFile)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read the host's revision: %w", err)
	}
	r, err := decodeRevisions(data)
	if err != nil {
		return none, fmt.Errorf("%s/%s: %w", s.state.Name(), revisionFile, err)
	}
	return r, nil
}

func decodeRevisions(data []byte) (Revisions, error) {
	var r Revisions
	if err := revisionsFormat.Decode("list", data, &r); err != nil {
		return Revisions{}, fmt.Errorf("%w: %w", ErrRevisions, err)
	}
	if (r.Version == revisionsVersion) != authentic.IsCode(r.MAC) {
		return Revisions{}, fmt.Errorf("%w: format version %d has MAC %q", ErrRevisions, r.Version, r.MAC)
	}
	for _, k := range r.Known {
		if err := ValidateName("revision", k.Name); err != nil {
			return Revisions{}, fmt.Errorf("%w: %w", ErrRevisions, err)
		}
	}
	if r.Current != "" && !slices.ContainsFunc(r.Known, func(k KnownRevision) bool { return k.Name == r.Current }) {
		return Revisions{}, fmt.Errorf("%w: the current revision %q is not in the list", ErrRevisions, r.Current)
	}
	return r, nil
}

// SetRevision sets the revision that the host runs. Existing mounts stay.
func (s *Store) SetRevision(ctx context.Context, name string) error {
	if err := ValidateName("revision", name); err != nil {
		return err
	}
	unlock, err := s.lockByte(ctx, 0, "revisions")
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := s.keysFor(ctx, byTheVault)
	if err != nil {
		return fmt.Errorf("set the revision: %w", err)
	}
	r, err := s.authenticRevisions(ctx, true)
	if errors.Is(err, ErrDamaged) {
		r = Revisions{} // the earlier revisions are unknown
	} else if err != nil {
		return err
	}
	r.Known = slices.DeleteFunc(r.Known, func(k KnownRevision) bool { return k.Name == name })
	r.Known = append(r.Known, KnownRevision{name, time.Now().UTC().Truncate(time.Second)})
	r.Current = name
	return s.writeRevisions(r, keys)
}

// writeRevisions writes which revision the host runs; keys is nil where there is no vault.
func (s *Store) writeRevisions(r Revisions, keys crypt.KeySource) (err error) {
	r.Version, r.MAC = oldRevisionsVersion, ""
	if keys != nil {
		if r, err = r.seal(keys); err != nil {
			return err
		}
	}
	return r.writeIn(s.state)
}

func (r Revisions) encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// RevisionGC is what collecting old revisions did.
type RevisionGC struct {
	Removed map[string][]string // revisions by the volume whose content went
	Kept    []string            // revisions that stay
	Failed  map[string]error    // by volume
}

// GCRevisions removes the content of revisions from every volume and disk, but for the
// current one, those to keep, those that volumes are bound to, and what is mounted. A
// volume that cannot be opened keeps all of its own, and its revisions stay known.
func (s *Store) GCRevisions(ctx context.Context, keep []string, dryRun bool) (RevisionGC, error) {
	out := RevisionGC{Removed: map[string][]string{}, Failed: map[string]error{}}
	unlock, err := s.lockByte(ctx, 0, "revisions")
	if err != nil {
		return out, err
	}
	defer unlock()
	keys, err := s.keysFor(ctx, byTheVault)
	if err != nil {
		return out, fmt.Errorf("collect revisions: %w", err)
	}
	r, err := s.authenticRevisions(ctx, true)
	if err != nil {
		return out, err
	}
	if r.Current == "" {
		return out, fmt.Errorf("collect revisions: %w", ErrNoRevision)
	}
	vs, err := s.List(ctx)
	if err != nil {
		return out, err
	}
	keep = append(slices.Clone(keep), r.Current)
	for _, v := range vs {
		if v.Options.Revision != "" {
			keep = append(keep, v.Options.Revision)
		}
	}
	for _, v := range vs {
		if v.Damage != nil || v.Options.Persistence != Revision {
			continue
		}
		removed, err := s.gcVolume(ctx, v, &keep, dryRun)
		if err != nil {
			out.Failed[v.Name] = err
		}
		if len(removed) > 0 {
			out.Removed[v.Name] = removed
		}
	}
	slices.Sort(keep)
	out.Kept = slices.Compact(keep)
	if dryRun || len(out.Failed) > 0 {
		return out, nil
	}
	r.Known = slices.DeleteFunc(r.Known, func(k KnownRevision) bool { return !slices.Contains(keep, k.Name) })
	return out, s.writeRevisions(r, keys)
}

// gcVolume removes a volume's content of other revisions; one that is mounted is added
// to those to keep.
func (s *Store) gcVolume(ctx context.Context, v Volume, keep *[]string, dryRun bool) (removed []string, err error) {
	v, unlock, err := s.lockVolume(ctx, v.ID().String())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.authenticate(ctx, v, toChange); err != nil {
		return nil, err
	}
	mounted, err := s.mountedRoots(v)
	if err != nil {
		return nil, err
	}
	err = s.withinRoot(ctx, v, func(root *os.Root) error {
		names, err := subdirs(root, revisionDir) // the same name on disks
		if err != nil {
			return err
		}
		for _, name := range names {
			if slices.Contains(*keep, name) {
				continue
			}
			// Of the revision's folder on a disk only this volume's is ours to remove.
			dir := v.kind().content(v.Record, name).dir
			if _, err := root.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if slices.ContainsFunc(mounted, func(m string) bool { return hasSuffixPath(m, dir) }) {
				*keep = append(*keep, name)
				continue
			}
			removed = append(removed, name)
			if dryRun {
				continue
			}
			if err := removeAllIn(root, dir); err != nil {
				return err
			}
		}
		return nil
	})
	return removed, err
}

// mountedRoots lists which parts of its file system a volume has mounted.
func (s *Store) mountedRoots(v Volume) ([]string, error) {
	is, err := s.backing(v).mounts()
	if err != nil || is == nil {
		return nil, err
	}
	return rootsOf(is)
}
