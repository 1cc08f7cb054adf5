package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"layervault/layer"
)

// ErrInUse: the database is open in another process.
var ErrInUse = errors.New("snapshot database is in use")

// Named says whether containerd names a snapshot: in its own list, by a container, by a lease or
// by a label of the content it keeps.
type Named int

// The answers.
const (
	Unsaid   Named = iota // containerd could not be asked
	IsNamed               // it, or something it keeps, names the snapshot
	NotNamed              // nothing does
)

// String is yes, no or unknown.
func (n Named) String() string {
	switch n {
	case IsNamed:
		return "yes"
	case NotNamed:
		return "no"
	}
	return "unknown"
}

// Problem is what the check of snapshots finds.
type Problem struct {
	Kind     ProblemKind
	Snapshot string // its name in the database, or in the layer's record
	Layer    string // "" where it is not known
	Named    Named
	Mendable bool // Mend mends it
}

// ProblemKind is a kind of problem.
type ProblemKind string

// The kinds of problems.
const (
	// Unlisted: the layer of a snapshot that the database does not know. The database was lost,
	// or is older than the layer.
	Unlisted ProblemKind = "unlisted"
	// Lost: a snapshot of the database that has no layer: its preparation was interrupted, or
	// the layer was lost.
	Lost ProblemKind = "lost"
	// Unfinished: a commit was interrupted, or the database is older than the commit.
	Unfinished ProblemKind = "unfinished"
	// Contradicted: the layer's record says something else than the database.
	Contradicted ProblemKind = "contradicted"
	// Unknown: containerd does not know the snapshot, and its next garbage collection removes
	// it. If containerd's database was lost or is an older one, that is a loss.
	Unknown ProblemKind = "unknown"
)

// Meaning explains a kind of problem to a person: what is wrong, not what to do.
func (k ProblemKind) Meaning() string {
	switch k {
	case Unlisted:
		return "layer exists, layervault's database does not list it"
	case Lost:
		return "layer is missing"
	case Unfinished:
		return "commit was interrupted"
	case Contradicted:
		return "layer's record contradicts the database"
	case Unknown:
		return "containerd does not know it, and its next garbage collection removes it"
	}
	return ""
}

// Entry is a snapshot as the database has it.
type Entry struct {
	Name, Parent string
	Kind         snapshots.Kind
	Layer        string // "" where the database could not be read for it
}

// Entries are the snapshots of the database in a folder, and the layers that it lists as ones to
// be erased. A database that does not exist has none. Nothing is changed. Error: ErrInUse.
func Entries(ctx context.Context, dir string) (entries []Entry, removed []string, err error) {
	path := filepath.Join(dir, databaseName)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	meta, err := storage.NewMetaStore(path, func(o *bolt.Options) error {
		o.ReadOnly, o.Timeout = true, time.Second
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	d := &database{meta}
	defer func() { err = errors.Join(err, d.close()) }()
	entries, removed, err = d.entries(ctx)
	if errors.Is(err, berrors.ErrTimeout) {
		err = fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return entries, removed, err
}

// EntriesOf are entries as a running service tells of them, without their layers.
func EntriesOf(infos []snapshots.Info) (entries []Entry) {
	for _, info := range infos {
		entries = append(entries, Entry{Name: info.Name, Parent: info.Parent, Kind: info.Kind})
	}
	return entries
}

// entries lists everything.
func (d *database) entries(ctx context.Context) (entries []Entry, removed []string, err error) {
	infos, err := d.walk(ctx)
	if err != nil {
		return nil, nil, err
	}
	err = d.read(ctx, func(ctx context.Context, t tables) error {
		if t.tx.Bucket(bucketOurs) == nil {
			return nil
		}
		for _, info := range infos {
			e, err := t.entry(ctx, info.Name)
			if err != nil {
				return err
			}
			entries = append(entries, Entry{Name: info.Name, Parent: info.Parent, Kind: info.Kind, Layer: e.layer})
		}
		removed, err = t.keys(bucketRemoved)
		return err
	})
	return entries, removed, err
}

// Judge compares the database, the records of layers, and what containerd names. Layers without a
// state are none of its business. Nothing that it is given need be authentic: it reports, and
// Mend judges again by what is.
func Judge(entries []Entry, removed []string, records []layer.Record, named func(name string) Named) []Problem {
	j := judging{named: named, byID: map[string]layer.Record{}, byName: map[string]string{}, seen: map[string]bool{}}
	for _, r := range records {
		if r.State != "" {
			j.byID[r.ID], j.byName[r.Name] = r, r.ID
		}
	}
	for _, id := range removed {
		j.seen[id] = true
	}
	for _, e := range entries {
		j.entry(e)
	}
	for _, r := range records {
		if r.State != "" && !j.seen[r.ID] {
			n := named(r.Name)
			j.problems = append(j.problems, Problem{Unlisted, r.Name, r.ID, n, n != Unsaid})
		}
	}
	return j.problems
}

type judging struct {
	named    func(string) Named
	byID     map[string]layer.Record
	byName   map[string]string
	seen     map[string]bool // layers that the database accounts for
	problems []Problem
}

func (j *judging) entry(e Entry) {
	id := e.Layer
	if id == "" {
		id = j.byName[e.Name]
	}
	n := j.named(e.Name)
	r, ok := j.byID[id]
	switch {
	case !ok:
		j.problems = append(j.problems, Problem{Lost, e.Name, e.Layer, n, n == NotNamed})
		return
	case e.Kind == snapshots.KindActive && r.State == layer.Committed:
		j.seen[id] = true
		j.problems = append(j.problems, Problem{Unfinished, e.Name, id, n, n != IsNamed && j.named(r.Name) == IsNamed})
		return
	case r.Name != e.Name || r.State != states[e.Kind]:
		// The layer is another snapshot's, and may be listed under its own name.
		j.problems = append(j.problems, Problem{Contradicted, e.Name, id, n, false})
		return
	}
	j.seen[id] = true
	if j.byID[r.Parent].Name != e.Parent {
		j.problems = append(j.problems, Problem{Contradicted, e.Name, id, n, false})
	}
	if n == NotNamed {
		j.problems = append(j.problems, Problem{Unknown, e.Name, id, n, false})
	}
}
