package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"layervault/internal/flock"
	"layervault/migrate/docker"
)

// Outcome is what became of an image.
type Outcome string

// The outcomes.
const (
	OutcomeMoved  Outcome = "moved"  // loaded, and the same on both engines
	OutcomePulled Outcome = "pulled" // pulled, and the same
	OutcomeSaved  Outcome = "saved"  // in the folder
	OutcomeDone   Outcome = "done"   // in an earlier run
	OutcomeLeft   Outcome = "left"   // on purpose
	OutcomeGone   Outcome = "gone"   // the old engine does not have it any more
	OutcomeFailed Outcome = "failed"
)

// Result is what became of one image.
type Result struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	NewID   string  `json:"new_id,omitempty"`
	Note    string  `json:"note,omitempty"`

	err error
}

// Report is what a run did.
type Report struct {
	Dir        string   `json:"dir"`
	Images     []Result `json:"images"`
	Containers int      `json:"containers"` // whose configuration was written down
}

// Progress is told how many of how many images are done.
type Progress func(done, total int, things string)

// Run moves what the plan says, and goes on where an earlier run ended. What fails for one image
// does not stop the others, unless the engine or the disk would fail for them too: then the report
// ends there. Nothing is removed. Errors: those of Plan, ErrClearFolder, ErrBusy, ErrUnfinished.
func (m *Migration) Run(ctx context.Context, progress Progress) (*Report, error) {
	if err := m.checkFolder(); err != nil {
		return nil, err
	}
	unlock, err := m.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	state, err := readState(m.Dir)
	if err != nil {
		return nil, err
	}
	plan, err := m.plan(ctx, state)
	if plan == nil || errors.Is(err, ErrSpace) && !m.AnySpace {
		return nil, err
	}
	report := &Report{Dir: m.Dir, Images: []Result{}}
	if m.From != nil {
		if err := m.keepOthers(ctx, plan); err != nil {
			return nil, err
		}
		report.Containers = len(plan.details)
	}
	return report, m.work(ctx, plan, state, report, progress)
}

// work does the rows of a plan.
func (m *Migration) work(ctx context.Context, plan *Plan, state *State, report *Report, progress Progress) error {
	if err := makeFolder(filepath.Join(m.Dir, imagesFolder)); err != nil {
		return err
	}
	var errs []error
	for i := range plan.Images {
		row := &plan.Images[i]
		res := m.one(ctx, row, state)
		report.Images = append(report.Images, res)
		if progress != nil {
			progress(i+1, len(plan.Images), "images")
		}
		if res.err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w", row.Name(), res.err))
		if stops(ctx, res.err) {
			break
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnfinished, errors.Join(errs...))
}

// stops says whether an error would meet the next image too.
func stops(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return true
	}
	if _, answered := errors.AsType[*docker.Error](err); answered {
		return false
	}
	return !errors.Is(err, ErrContent) && !errors.Is(err, ErrArchive) && !errors.Is(err, ErrOtherImage)
}

// one does one row.
func (m *Migration) one(ctx context.Context, row *Row, state *State) Result {
	res := Result{ID: row.ID, Name: row.Name(), Note: row.Reason}
	switch row.Action {
	case Done:
		res.Outcome = OutcomeDone
		return res
	case Leave:
		res.Outcome = OutcomeLeft
		return res
	case Conflict:
		res.err = fmt.Errorf("%w: %s", ErrOtherImage, row.Reason)
	case Save:
		res.Outcome, res.err = m.save(ctx, row, state)
	default:
		res.err = m.move(ctx, row, state, &res)
	}
	if res.err != nil {
		res.Outcome, res.Note = OutcomeFailed, res.err.Error()
	}
	return res
}

// move brings one image to the new engine, and compares.
func (m *Migration) move(ctx context.Context, row *Row, state *State, res *Result) error {
	e, err := m.entry(ctx, row, state)
	if errors.Is(err, docker.ErrNotFound) {
		res.Outcome = OutcomeGone
		return nil
	}
	if err != nil {
		return err
	}
	res.Outcome = OutcomeMoved
	if row.Action == Pull {
		if e.NewID, err = m.pull(ctx, &e); err == nil {
			res.Outcome, e.Pulled = OutcomePulled, true
		} else if ctx.Err() != nil || m.From == nil && !m.hasTar(&e) {
			return err
		} else {
			res.Note = "not pulled: " + err.Error()
		}
	}
	if res.Outcome == OutcomeMoved {
		loaded, err := m.load(ctx, &e)
		if err != nil {
			return err
		}
		if e.NewID, err = m.verify(ctx, &e, loaded); err != nil {
			return err
		}
	}
	e.Stage, res.NewID = Verified, e.NewID
	state.set(e)
	return state.write(m.Dir)
}

// entry is the image as the old engine has it now, or as the folder does. Error: docker.ErrNotFound.
func (m *Migration) entry(ctx context.Context, row *Row, state *State) (Entry, error) {
	old := state.find(row.ID)
	if m.From == nil {
		return *old, nil
	}
	im, err := m.From.Inspect(ctx, row.ID)
	if err != nil {
		return Entry{}, fmt.Errorf("old engine: %w", err)
	}
	e := Entry{ID: im.ID, Tags: im.Tags, Digests: im.Digests, Size: im.Size, Content: im.Content}
	if old != nil {
		e.TarSize, e.TarSum = old.TarSize, old.TarSum
	}
	return e, nil
}

// names are what the image is saved by: a tar of one image has all its tags.
func (e *Entry) names() []string {
	if len(e.Tags) > 0 {
		return e.Tags
	}
	return []string{e.ID}
}

// load sends the image to the new engine. A tar that turns out damaged is not loaded.
func (m *Migration) load(ctx context.Context, e *Entry) (loaded []string, err error) {
	tar, done, err := m.tar(ctx, e)
	if err != nil {
		return nil, err
	}
	defer done()
	loaded, err = m.To.Load(ctx, tar)
	if failure := tar.Failure(); failure != nil { // what the other side says is only its consequence
		return nil, failure
	}
	if err != nil {
		return nil, fmt.Errorf("new engine: %w", err)
	}
	return loaded, nil
}

// tar opens the image's tar, from the old engine or from the folder.
func (m *Migration) tar(ctx context.Context, e *Entry) (g *guard, done func(), err error) {
	if m.From == nil {
		f, err := os.Open(filepath.Join(m.Dir, tarFile(e.ID)))
		if err != nil {
			return nil, nil, fmt.Errorf("tar of the image: %w", err)
		}
		g = guardSum(f, e.TarSize, e.TarSum)
		return g, func() { g.Close(); _ = f.Close() }, nil
	}
	info, err := m.From.Info(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("old engine: %w", err)
	}
	body, err := m.From.Save(ctx, e.names())
	if err != nil {
		return nil, nil, fmt.Errorf("old engine: %w", err)
	}
	config := e.ID
	if info.Snapshotter { // there the ID is the digest of something else
		config = ""
	}
	g = guardTar(body, config)
	return g, func() { _ = body.Close(); g.Close() }, nil
}

// verify wants the new engine to tell the same of the image by each of its tags, and returns its ID
// there.
func (m *Migration) verify(ctx context.Context, e *Entry, loaded []string) (id string, err error) {
	names := e.Tags
	if len(names) == 0 {
		names = loaded
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%s: %w: the engine does not say what it loaded", e.Name(), ErrContent)
	}
	for _, name := range names {
		im, err := m.To.Inspect(ctx, name)
		if errors.Is(err, docker.ErrNotFound) {
			return "", &ContentError{name, []string{"not there after it was loaded"}}
		}
		if err != nil {
			return "", fmt.Errorf("new engine: %w", err)
		}
		if err := compare(name, e.Content, im.Content); err != nil {
			return "", err
		}
		id = im.ID
	}
	return id, nil
}

// pull has the new engine pull the image by a digest, and gives it its tags.
func (m *Migration) pull(ctx context.Context, e *Entry) (id string, err error) {
	var errs []error
	for _, digest := range e.Digests {
		id, err := m.pullOne(ctx, e, digest)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

func (m *Migration) pullOne(ctx context.Context, e *Entry, digest string) (id string, err error) {
	if err := m.To.Pull(ctx, digest); err != nil {
		return "", fmt.Errorf("new engine: %w", err)
	}
	if id, err = m.verify(ctx, &Entry{ID: e.ID, Tags: []string{digest}, Content: e.Content}, nil); err != nil {
		return "", err
	}
	for _, tag := range e.Tags {
		if err := m.To.Tag(ctx, digest, tag); err != nil {
			return "", fmt.Errorf("new engine: %w", err)
		}
	}
	return id, nil
}

// lockFile is locked by the process that works in the folder.
const lockFile = ".lock"

func (m *Migration) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(m.Dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("folder of the migration: %w", err)
	}
	if err := flock.TryLock(f, flock.Exclusive); err != nil {
		_ = f.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, fmt.Errorf("%w: %w", ErrBusy, err)
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
