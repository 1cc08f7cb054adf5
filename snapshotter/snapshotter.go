package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"

	"layervault/internal/keylock"
	"layervault/layer"
	"layervault/stack"
)

// Config makes a Snapshotter.
type Config struct {
	// Dir holds the database; it is made if absent.
	Dir string
	// Mounts is where images are attached. It must be a path that the host's mount namespace
	// shows, without , : or \, and be empty after a reboot: a folder of /run.
	Mounts string
	// Layers is the store, which its owner closes after the snapshotter.
	Layers *layer.Store
	// DefaultSize is the size in bytes of a writable layer where no label asks for another.
	DefaultSize int64
	// Linger is how long an image that no snapshot shows any more stays attached; 0 for
	// DefaultLinger. An unpacked image is prepared on in a moment.
	Linger time.Duration
	Log    *slog.Logger // nil for slog.Default()
}

// DefaultLinger is long against the time between two layers of a pull.
const DefaultLinger = 15 * time.Second

// Snapshotter implements containerd's snapshots.Snapshotter and snapshots.Cleaner on a layer
// store. It is safe for concurrent use: calls on one snapshot wait for each other, calls on
// different ones wait only for the database.
type Snapshotter struct {
	cfg      Config
	log      *slog.Logger
	db       *database
	layers   *layer.Store
	stack    *stack.Stack
	locks    keylock.Locks // by key of a snapshot
	attached *attachments
	eraser   eraser
	unpacks  unpacks

	stop    context.CancelFunc
	behind  context.Context // of what runs after an answer; ends at Close
	work    sync.WaitGroup  // of the same
	closing sync.Mutex
	closed  bool
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New opens the database, takes over what an earlier process attached, and goes on with
// removals that it left. Error of a database that another process has open: the layer store
// belongs to one process, which comes first.
func New(ctx context.Context, cfg Config) (_ *Snapshotter, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Linger == 0 {
		cfg.Linger = DefaultLinger
	}
	s := &Snapshotter{cfg: cfg, log: cfg.Log, layers: cfg.Layers, stack: stack.New(cfg.Layers, user.IdentityMapping{}, cfg.Log)}
	// Both are closed to all but root: what is attached can be read there.
	for _, dir := range []string{cfg.Dir, cfg.Mounts} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
			return nil, fmt.Errorf("start the snapshotter: %w", err)
		}
	}
	if s.db, err = openDatabase(ctx, cfg.Dir); err != nil {
		return nil, fmt.Errorf("start the snapshotter: %w", err)
	}
	s.attached = newAttachments(cfg.Mounts, cfg.Linger, s.stack.Attach, cfg.Log)
	s.behind, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.adopt(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the snapshotter: %w", err), s.Close())
	}
	s.eraseBehind()
	return s, nil
}

// Close ends the snapshotter. What active snapshots and views show stays attached. Closing
// twice is no error.
func (s *Snapshotter) Close() error {
	s.closing.Lock()
	already := s.closed
	s.closed = true
	s.closing.Unlock()
	if already {
		return nil
	}
	s.stop()
	s.work.Wait()
	return errors.Join(s.attached.close(), s.db.close())
}

// begin is how every call on one snapshot starts: not closed, and alone with its key.
func (s *Snapshotter) begin(ctx context.Context, key string) (unlock func(), err error) {
	if s.isClosed() {
		return nil, classify(ErrClosed)
	}
	return s.locks.Lock(ctx, key)
}

func (s *Snapshotter) isClosed() bool {
	s.closing.Lock()
	defer s.closing.Unlock()
	return s.closed
}

// later runs f after the answer; Close waits for its end.
func (s *Snapshotter) later(f func(ctx context.Context)) {
	s.closing.Lock()
	defer s.closing.Unlock()
	if !s.closed {
		s.work.Go(func() { f(s.behind) })
	}
}
