package convert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"layervault/persist"
)

// Config says what is converted.
type Config struct {
	Layout persist.Layout
	Places Places
	// Commit destroys the source of each item that is in its new place: now, and those of
	// earlier runs. Without it all sources are kept.
	Commit bool
	// DryRun changes nothing.
	DryRun bool
	// Keep is how many bytes stay free on each disk; 0 for DefaultKeep, less for none.
	Keep int64
	// Sockets are where containerd may listen; nil for DefaultSockets.
	Sockets []string
	// Progress, when set, is told now and then how far the run is.
	Progress func(Progress)
	// Checkpoint, when set, is called at each step at which a crash leaves another state on the
	// disk. Its error ends the run there, as a crash does.
	Checkpoint func(step string) error
	Log        *slog.Logger // nil for slog.Default()
}

// DefaultKeep is what stays free on a disk: a full /persist keeps a device from booting
// (eve#1966), and EVE itself warns below this.
const DefaultKeep = 64 << 20

// ErrUnfinished: some items failed, and another run tries them again. The error is an
// *UnfinishedError.
var ErrUnfinished = errors.New("the upgrade of the layout is not complete")

// UnfinishedError is ErrUnfinished with the reasons.
type UnfinishedError struct{ Problems []error }

// most is how many things one line names.
const most = 5

func (e *UnfinishedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d items failed", ErrUnfinished, len(e.Problems))
	for i, p := range e.Problems {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(e.Problems)-i)
			break
		}
		fmt.Fprintf(&b, "; %v", p)
	}
	return b.String()
}

// Unwrap makes the error match its reasons, such as a full disk.
func (e *UnfinishedError) Unwrap() []error { return append([]error{ErrUnfinished}, e.Problems...) }

// errStopped marks what a Checkpoint ended: there is no clean-up after it.
var errStopped = errors.New("ended by a checkpoint")

// run is one run.
type run struct {
	Config
	ctx    context.Context
	root   *folder
	state  *state
	count  *counter
	users  map[string]string
	report Report
	lines  map[*Item]*Line
	errs   []error
}

// Run converts. An item that fails does not stop the others. The report is valid with any
// error. Errors: *UnfinishedError; ErrContainerd, ErrMigrating, ErrRunning, ErrNoSpace and
// ErrBadJournal before anything was changed.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Sockets == nil {
		cfg.Sockets = DefaultSockets
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	r := &run{Config: cfg, ctx: ctx, count: newCounter(cfg.Progress), lines: map[*Item]*Line{}, report: Report{
		Root: cfg.Layout.Root, DryRun: cfg.DryRun, Commit: cfg.Commit, ConfigTried: []string{}, Items: []Line{},
	}}
	root, err := openLayout(cfg.Layout)
	if err != nil {
		return r.report, err
	}
	defer root.close()
	r.root = root
	if err := r.refuse(); err != nil {
		return r.report, err
	}
	if r.state, err = openState(cfg.Layout, cfg.DryRun); err != nil {
		return r.report, err
	}
	if !cfg.DryRun {
		if err := cfg.Places.Sweep(ctx); err != nil {
			cfg.Log.WarnContext(ctx, "cannot release what an interrupted upgrade had open", "error", err)
		}
	}
	err = r.convert()
	return r.report, errors.Join(err, r.state.close())
}

func (r *run) refuse() (err error) {
	if err := refuseMigration(r.root); err != nil {
		return err
	}
	if r.users, err = users(r.Layout.Root); err != nil {
		return err
	}
	return refuseContainerd(r.ctx, r.root, r.Sockets, r.users)
}

// convert plans, checks the space, and moves item after item.
func (r *run) convert() error {
	items, err := r.plan()
	if err != nil {
		return err
	}
	lines := make([]Line, len(items))
	for i, it := range items {
		lines[i] = Line{Source: it.Source, Kind: it.Kind, Notes: it.Notes, Status: Waiting, Files: it.tree.files, Bytes: it.tree.bytes}
		r.lines[it] = &lines[i]
		if it.Target.Name != "" {
			lines[i].Destination = it.Target.String()
		}
		if it.Left != nil {
			r.stays(it)
		}
	}
	r.report.Items = lines
	if err := r.dropStale(items); err != nil {
		return err
	}
	needs, err := r.space(items)
	if err == nil && !r.DryRun {
		r.count.total(needs.files, needs.bytes)
		err = r.moveAll(items)
	}
	if r.DryRun {
		for i := range lines {
			if lines[i].Status == Waiting {
				lines[i].Status = r.would(items[i])
			}
		}
	}
	r.report.Complete = err == nil && len(r.errs) == 0
	if err != nil || r.DryRun {
		return err
	}
	if len(r.errs) > 0 {
		return &UnfinishedError{r.errs}
	}
	left := r.report.Count(Stays)
	return writeConverted(r.Layout, converted{At: time.Now().UTC().Truncate(time.Second), Items: len(items) - left, Left: left})
}

// would says what a dry run shows of an item that moves: an earlier run may have copied it.
func (r *run) would(it *Item) Status {
	if rec := r.state.j.Items[it.Source]; rec != nil && rec.Phase != copying && rec.Phase != ready {
		return Copied
	}
	return Would
}

// stays says that an item is not moved: by decision, or because something is wrong.
func (r *run) stays(it *Item) {
	line := r.lines[it]
	line.Status, line.Reason = Stays, it.Left.Error()
	if !isDecision(it.Left) {
		line.Status = Failed
		r.errs = append(r.errs, fmt.Errorf("%s: %w", it.Source, it.Left))
	}
}

// dropStale removes what an earlier run staged for an item that now goes elsewhere, or nowhere.
// A volume that was made for it stays, empty, and is named in the log.
func (r *run) dropStale(items []*Item) error {
	if r.DryRun {
		return nil
	}
	now := map[string]Target{}
	for _, it := range items {
		if it.Left == nil {
			now[it.Source] = it.Target
		}
	}
	for _, source := range sortedKeys(r.state.j.Items) {
		rec := r.state.j.Items[source]
		if t, moves := now[source]; rec.Phase != copying || moves && t == rec.Target {
			continue
		}
		to, release, err := r.open(rec.Target, Need{})
		if err == nil {
			err = errors.Join(to.remove(stageName(source)), release())
		}
		if err != nil {
			r.Log.WarnContext(r.ctx, "cannot remove what an earlier run staged", "source", source, "target", rec.Target.String(), "error", err)
			continue
		}
		r.Log.WarnContext(r.ctx, "item goes elsewhere than in an earlier run; removed its partial copy", "source", source, "target", rec.Target.String())
		if err := r.state.set(r.ctx, source, nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) moveAll(items []*Item) error {
	for _, it := range items {
		if it.Left != nil {
			continue
		}
		line := r.lines[it]
		err := r.move(it, line)
		switch {
		case err == nil:
		case r.ctx.Err() != nil:
			return fmt.Errorf("the upgrade waits to be finished: %w", context.Cause(r.ctx))
		case errors.Is(err, errStopped):
			return err
		case isDecision(err):
			line.Status, line.Reason, line.Digest = Stays, err.Error(), ""
		default:
			err = fmt.Errorf("%s: %w", it.Source, err)
			line.Status, line.Reason = Failed, err.Error()
			r.errs = append(r.errs, err)
			r.Log.ErrorContext(r.ctx, "item was not converted", "source", it.Source, "error", err)
		}
	}
	r.count.end()
	r.report.Files, r.report.Bytes, r.report.Seconds = r.count.done()
	return r.trim()
}

// decisions are the reasons for which an item stays where it is, whatever happens.
var decisions = []error{ErrName, ErrKind, ErrReserved, ErrNoApp, ErrNoDrive, ErrPurged, ErrNoRef, ErrBadRef, ErrTaken, ErrExists, ErrWrongDigest, ErrOutside}

// isDecision tells a reason to leave an item from a failure that another run may mend.
func isDecision(err error) bool {
	return !errors.Is(err, ErrNoConfig) && slices.ContainsFunc(decisions, func(d error) bool { return errors.Is(err, d) })
}

// trim tells the disk of the sources to forget what is free, once they are destroyed.
func (r *run) trim() error {
	r.report.Trimmed = 0
	if !r.Commit || r.report.Count(Moved) == 0 {
		return nil
	}
	n, err := trimDisk(r.root)
	if err != nil {
		r.Log.InfoContext(r.ctx, "the disk cannot be told to forget free space", "root", r.root.path, "error", err)
		n = -1
	}
	r.report.Trimmed = n
	return nil
}

func (r *run) step(name string) error {
	if r.Checkpoint == nil {
		return nil
	}
	if err := r.Checkpoint(name); err != nil {
		return fmt.Errorf("%s: %w: %w", name, errStopped, err)
	}
	return nil
}

// plan lists the items, with what is known of each: that of the disk, and that of the journal.
func (r *run) plan() ([]*Item, error) {
	p := &planner{ctx: r.ctx, root: r.root, taken: map[Target]string{}}
	for source, rec := range r.state.j.Items {
		if rec.Phase != copying {
			p.taken[slot(rec.Target)] = source
		}
	}
	config, from, tried, err := readConfig(r.root)
	r.report.Config, r.report.ConfigTried = from, append(r.report.ConfigTried, tried...)
	if err != nil {
		p.noConf = err
	} else {
		p.config = config
	}
	items, err := p.plan()
	if err != nil {
		return nil, err
	}
	items = r.addKnown(items)
	for _, it := range items {
		if r.ctx.Err() != nil {
			return nil, context.Cause(r.ctx)
		}
		r.look(it)
	}
	return items, nil
}

// addKnown takes what the journal says of an item over the plan: its target was decided when it
// was begun, and a configuration that changed since does not move it elsewhere. Items whose
// source is gone are reported, too.
func (r *run) addKnown(items []*Item) []*Item {
	seen := map[string]bool{}
	for _, it := range items {
		seen[it.Source] = true
		if rec := r.state.j.Items[it.Source]; rec != nil && rec.Phase != copying && rec.Kind == it.Kind {
			it.Target, it.Left = rec.Target, nil
		}
	}
	for _, source := range sortedKeys(r.state.j.Items) {
		if rec := r.state.j.Items[source]; !seen[source] && rec.Phase != copying {
			items = append(items, &Item{Source: source, Kind: rec.Kind, Target: rec.Target, tree: tree{files: rec.Files, bytes: rec.Bytes}})
		}
	}
	return items
}

// look surveys an item, and says why it is left if it is.
func (r *run) look(it *Item) {
	rec := r.state.j.Items[it.Source]
	if it.Left != nil || rec != nil && (rec.Phase == gone || rec.Phase == destroying) {
		return
	}
	at, name, err := r.source(it)
	if err == nil {
		defer at.close()
		it.tree, err = survey(r.ctx, at, name)
	}
	switch {
	case err != nil && rec == nil:
		it.Left = err
	case err != nil:
		return // what was begun says by itself what is wrong
	case rec == nil || rec.Phase == copying:
		if by := usedBelow(r.users, it.Source); by != "" {
			it.Left = fmt.Errorf("%w by %s", ErrInUse, by)
			return
		}
		if rec != nil && rec.Target == it.Target {
			return // what is there is ours
		}
		taken, err := r.Places.Look(r.ctx, it.Target)
		if err != nil {
			it.Left = err
		} else if taken {
			it.Left = fmt.Errorf("%w: %s", ErrExists, it.Target)
		}
	}
}

// source opens the folder of an item's source.
func (r *run) source(it *Item) (at *folder, name string, err error) {
	dir, name := path.Split(it.Source)
	if dir == "" {
		return r.root.share(), name, nil
	}
	dir = path.Clean(dir)
	fd, err := openBeneath(r.root.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, "", err
	}
	return newFolder(fd, dir), name, nil
}
