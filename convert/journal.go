package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"layervault/internal/durable"
	"layervault/internal/flock"
	"layervault/persist"
)

// phase is how far an item is.
type phase string

// The phases. An item without an entry was not begun, or was begun and left.
const (
	copying    phase = "copying"    // its target is ours; a staged copy may be there
	ready      phase = "ready"      // the staged copy is complete and durable
	copied     phase = "copied"     // the copy has its name; the source is still there
	destroying phase = "destroying" // the source is being destroyed
	gone       phase = "gone"       // the source is destroyed
)

var phases = []phase{copying, ready, copied, destroying, gone}

// journalFormat is that of the journal. A device has some hundred items of half a KiB; maxItems
// of them are 16 MiB.
var journalFormat = durable.Format{Oldest: 1, Newest: 1, MaxSize: 16 << 20}

// ErrBadJournal: the journal cannot be read, or says what no journal says.
var ErrBadJournal = errors.New("journal of the upgrade is damaged")

// journal is what a run must know of those before it: which destinations are its own, and
// which sources are safely copied. What is staged is not in it; the marks of the staged files
// say that.
type journal struct {
	Version int                `json:"version"`
	Begun   time.Time          `json:"begun"`
	Items   map[string]*record `json:"items"` // by source
}

// record is an item in the journal.
type record struct {
	Kind   Kind   `json:"kind"`
	Target Target `json:"target"`
	Phase  phase  `json:"phase"`
	// State is what the source was when it was copied, without its content, see tree.
	State string `json:"state,omitempty"`
	// Digest is that of the copied tree, see finisher.
	Digest string `json:"digest,omitempty"`
	Files  int64  `json:"files,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
}

// Names in the folder of the upgrade's state.
const (
	stateDir    = "upgrade"
	lockFile    = "lock"
	journalFile = "journal.json"
	journalTemp = "journal.json.tmp"
)

// ErrRunning: another upgrade is running.
var ErrRunning = errors.New("another upgrade is running")

// state is the folder of the journal, locked.
type state struct {
	root *os.Root
	lock *os.File
	j    *journal
}

// stateFolder is where the journal lies.
func stateFolder(l persist.Layout) string { return filepath.Join(l.Tier(persist.Vault), stateDir) }

// openState locks the state and reads the journal. With dry nothing is made, and a state that
// does not exist is empty.
func openState(l persist.Layout, dry bool) (_ *state, err error) {
	s := &state{j: &journal{Version: journalFormat.Newest, Begun: time.Now().UTC().Truncate(time.Second), Items: map[string]*record{}}}
	dir := stateFolder(l)
	if !dry {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of the upgrade: %w", err)
		}
		if err := durable.SyncPath(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	}
	s.root, err = os.OpenRoot(dir)
	if dry && errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the folder of the upgrade: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if !dry {
		if s.lock, err = s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return nil, err
		}
		if err = flock.TryLock(s.lock, flock.Exclusive); errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: wait for its end", ErrRunning)
		} else if err != nil {
			return nil, err
		}
	}
	return s, s.read()
}

func (s *state) close() error {
	var errs []error
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	return errors.Join(errs...)
}

func (s *state) read() error {
	f, err := s.root.Open(journalFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := journalFormat.Read(f)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	j, err := decodeJournal(data)
	if err != nil {
		return fmt.Errorf("%w: remove %s to begin anew; destinations that exist then stay as they are", err, f.Name())
	}
	s.j = j
	return nil
}

// decodeJournal reads a journal strictly. It decides what is destroyed, so what it names must
// be a source and a target that a plan could have.
func decodeJournal(data []byte) (*journal, error) {
	j := &journal{}
	if err := journalFormat.Decode(journalFile, data, j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadJournal, err)
	}
	if len(j.Items) > maxItems {
		return nil, fmt.Errorf("%w: more than %d items", ErrBadJournal, maxItems)
	}
	for source, r := range j.Items {
		if err := r.check(source); err != nil {
			return nil, fmt.Errorf("%w: item %q: %w", ErrBadJournal, source, err)
		}
	}
	if j.Items == nil {
		j.Items = map[string]*record{}
	}
	return j, nil
}

var hexSum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sources are the folders that the sources of a kind lie in, and how deep.
var sources = map[Kind]*regexp.Regexp{
	VM:         regexp.MustCompile(`^img/[^/]+$`),
	Container:  regexp.MustCompile(`^runx/pods/prepared/[^/]+$`),
	Verified:   regexp.MustCompile(`^downloads/[^/]+/verified/[^/]+/[^/]+$`),
	Verifying:  regexp.MustCompile(`^downloads/[^/]+/verifier/[^/]+$`),
	Pending:    regexp.MustCompile(`^downloads/[^/]+/pending/[^/]+$`),
	Containerd: regexp.MustCompile(`^containerd$`),
}

func (r *record) check(source string) error {
	if r == nil {
		return errors.New("empty")
	}
	form, known := sources[r.Kind]
	switch {
	case !known:
		return fmt.Errorf("unknown kind %q", r.Kind)
	case !form.MatchString(source) || filepath.Clean(source) != source || strings.Contains(source, "/../") || strings.ContainsRune(source, 0):
		return fmt.Errorf("no source of kind %s", r.Kind)
	case !slices.Contains(areas, r.Target.Area) || badName(r.Target.Name) || r.Target.Volume != "" && !persist.IsVolumeName(r.Target.Volume):
		return fmt.Errorf("bad target %q", r.Target)
	case r.Target.Dir != "" && r.Target.Dir != "pending" && r.Target.Dir != "verified":
		return fmt.Errorf("bad folder %q", r.Target.Dir)
	}
	if (r.Target.Area == Volumes || r.Target.Area == ClearVolumes) != (r.Target.Volume != "") {
		return fmt.Errorf("bad target %q", r.Target)
	}
	return r.checkPhase()
}

// checkPhase wants a known phase, and from the second one on digests.
func (r *record) checkPhase() error {
	switch i := slices.Index(phases, r.Phase); {
	case i < 0:
		return fmt.Errorf("unknown phase %q", r.Phase)
	case i > 0 && (!hexSum.MatchString(r.State) || !hexSum.MatchString(r.Digest)):
		return errors.New("no digest")
	}
	return nil
}

func badName(name string) bool {
	return name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00")
}

// keep writes the journal.
func (s *state) keep() error {
	data, err := json.MarshalIndent(s.j, "", " ")
	if err != nil {
		return err
	}
	if len(data) >= journalFormat.MaxSize {
		return fmt.Errorf("write the journal: %w", durable.ErrTooLong)
	}
	return durable.WriteFile(s.root, journalTemp, journalFile, append(data, '\n'), 0o600)
}

// set brings an item to a phase, durably. Without a record it is forgotten.
func (s *state) set(ctx context.Context, source string, r *record) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if r == nil {
		delete(s.j.Items, source)
	} else {
		s.j.Items[source] = r
	}
	return s.keep()
}

// converted is the content of persist.Layout's marker Converted. It is for people: whether it is there is what counts.
type converted struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	Items   int       `json:"items"` // that the vault has
	Left    int       `json:"left"`  // that stay where they are, by decision
}

func writeConverted(l persist.Layout, c converted) error {
	c.Version = 1
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	name := l.Converted()
	return durable.Replace(name, "."+filepath.Base(name)+".tmp", append(data, '\n'))
}
