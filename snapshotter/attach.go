package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"

	"layervault/internal/keylock"
	"layervault/internal/mounts"
	"layervault/layer"
)

// attachAtOnce bounds how many images one call attaches at a time, as openAtOnce does in
// package layer.
const attachAtOnce = 8

// attachments are the images that are attached for others to mount: each at one path, once,
// for all snapshots that show it. What is mounted is asked of the kernel; who shows it is
// remembered, and read from the records after a restart.
type attachments struct {
	dir    string
	linger time.Duration
	attach func(ctx context.Context, r layer.Record, at string) error
	log    *slog.Logger

	locks keylock.Locks // by layer

	mu     sync.Mutex
	shown  map[string]map[string]struct{} // layer -> layers of the snapshots that show it
	holds  map[string][]string            // layer of a snapshot -> layers that it shows
	idle   map[string]time.Time           // layers that nobody shows, since when
	timer  *time.Timer
	closed bool
	sweeps sync.WaitGroup
}

func newAttachments(dir string, linger time.Duration, attach func(context.Context, layer.Record, string) error, log *slog.Logger) *attachments {
	return &attachments{
		dir: dir, linger: linger, attach: attach, log: log,
		shown: map[string]map[string]struct{}{}, holds: map[string][]string{}, idle: map[string]time.Time{},
	}
}

// path is where the image of a layer is attached.
func (a *attachments) path(id string) string { return filepath.Join(a.dir, id) }

// layerAt is the layer that a directory of an attached image belongs to, "" for none.
func (a *attachments) layerAt(dir, name string) string {
	id, ok := strings.CutSuffix(dir, "/"+name)
	if !ok || filepath.Dir(id) != filepath.Clean(a.dir) || layer.ValidateID(filepath.Base(id)) != nil {
		return ""
	}
	return filepath.Base(id)
}

// hold attaches the images of a chain for a snapshot, until drop. All or nothing: after an
// error the snapshot shows what it showed before.
func (a *attachments) hold(ctx context.Context, snapshot string, chain []layer.Record) error {
	before := a.show(snapshot, chain)
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(attachAtOnce)
	for _, r := range chain {
		g.Go(func() error { return a.ensure(inner, r) })
	}
	err := g.Wait()
	if err != nil && !before {
		a.drop(snapshot)
	}
	return err
}

// show notes which layers a snapshot shows, and says whether it showed some before.
func (a *attachments) show(snapshot string, chain []layer.Record) (before bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, before = a.holds[snapshot]
	for _, r := range chain {
		if a.shown[r.ID] == nil {
			a.shown[r.ID] = map[string]struct{}{}
		}
		if _, have := a.shown[r.ID][snapshot]; !have {
			a.shown[r.ID][snapshot] = struct{}{}
			a.holds[snapshot] = append(a.holds[snapshot], r.ID)
		}
		delete(a.idle, r.ID)
	}
	return before
}

// ensure attaches one image, unless it is.
func (a *attachments) ensure(ctx context.Context, r layer.Record) error {
	unlock, err := a.locks.Lock(ctx, r.ID)
	if err != nil {
		return err
	}
	defer unlock()
	at := a.path(r.ID)
	mounted, err := mounts.IsMounted(at)
	if err != nil || mounted {
		return err
	}
	if err := makePlace(at); err != nil {
		return fmt.Errorf("attach layer %s: %w", r.ID, err)
	}
	if err := a.attach(ctx, r, at); err != nil {
		return errors.Join(fmt.Errorf("attach layer %s: %w", r.ID, err), mounts.DetachAll(at), ignoreAbsent(os.Remove(at)))
	}
	if r.State == layer.Committed {
		return mounts.MakeReadOnly(at)
	}
	return nil
}

// makePlace makes the directory where an image is attached, in the place of what bar made.
func makePlace(at string) error {
	err := os.Mkdir(at, 0o700)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if fi, err := os.Lstat(at); err != nil || fi.IsDir() {
		return err
	}
	return errors.Join(os.Remove(at), os.Mkdir(at, 0o700))
}

// bar sees to it that nothing can be written where the image of a layer is not attached: a file
// is where the directory would be.
func (a *attachments) bar(id string) error {
	return os.WriteFile(a.path(id), nil, 0o400)
}

// freeze makes an attached image read-only for everyone who mounts it from now on. Mounts that
// were made of it before keep writing.
func (a *attachments) freeze(ctx context.Context, id string) error {
	unlock, err := a.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	mounted, err := mounts.IsMounted(a.path(id))
	if err != nil || !mounted {
		return err
	}
	return mounts.MakeReadOnly(a.path(id))
}

// drop ends what hold began. An unknown snapshot is no error.
func (a *attachments) drop(snapshot string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range a.holds[snapshot] {
		delete(a.shown[id], snapshot)
		if len(a.shown[id]) == 0 {
			delete(a.shown, id)
			a.idle[id] = time.Now()
		}
	}
	delete(a.holds, snapshot)
	a.arm(a.linger)
}

// arm sets the timer if there is something to detach. a.mu is held.
func (a *attachments) arm(after time.Duration) {
	if a.closed || a.timer != nil || len(a.idle) == 0 {
		return
	}
	a.sweeps.Add(1)
	a.timer = time.AfterFunc(after, func() {
		defer a.sweeps.Done()
		a.sweep()
	})
}

// sweep detaches what nobody has shown for a while.
func (a *attachments) sweep() {
	now := time.Now()
	for _, id := range a.idleSince(now.Add(-a.linger)) {
		if err := a.detachIdle(id); err != nil {
			a.log.Warn("cannot detach the image of a layer that no snapshot shows", "layer", id, "error", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = nil
	a.arm(a.linger)
}

func (a *attachments) idleSince(when time.Time) (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, since := range a.idle {
		if !since.After(when) {
			ids = append(ids, id)
		}
	}
	return ids
}

// detachIdle detaches one image, unless a snapshot shows it by now.
func (a *attachments) detachIdle(id string) error {
	unlock, err := a.locks.Lock(context.Background(), id) // held for one mount at most
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	_, still := a.idle[id]
	delete(a.idle, id)
	a.mu.Unlock()
	if !still {
		return nil
	}
	return a.detach(id)
}

// evict detaches an image that is about to be replaced or erased.
func (a *attachments) evict(ctx context.Context, id string) error {
	unlock, err := a.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return a.detach(id)
}

func (a *attachments) detach(id string) error {
	if err := mounts.DetachAll(a.path(id)); err != nil {
		return err
	}
	// Never recursively: what is written beside a mount must stop this, not vanish.
	if err := ignoreAbsent(os.Remove(a.path(id))); err != nil {
		return fmt.Errorf("detach layer %s: %w", id, err)
	}
	return nil
}

// list lists the layers whose images an earlier process attached, and that are still.
func (a *attachments) list() ([]string, error) {
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return filepath.Dir(m.Mountpoint) == filepath.Clean(a.dir) })
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, at := range mounts.Points(infos) {
		if layer.ValidateID(filepath.Base(at)) == nil {
			ids = append(ids, filepath.Base(at))
		}
	}
	return ids, nil
}

// close detaches what nobody shows. The rest stays: it was handed out.
func (a *attachments) close() error {
	a.mu.Lock()
	a.closed = true
	if a.timer != nil && a.timer.Stop() {
		a.sweeps.Done()
	}
	a.mu.Unlock()
	a.sweeps.Wait()
	var errs []error
	for _, id := range a.idleSince(time.Now()) {
		errs = append(errs, a.detachIdle(id))
	}
	return errors.Join(errs...)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
