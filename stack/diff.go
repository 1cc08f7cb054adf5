package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/go-archive"

	"layervault/layer"
	"layervault/layer/treetar"
)

// Diff streams the tar of a layer's changes over parent, "" for the empty layer, with whiteouts
// as in OCI layers. The caller closes the stream, which also unmounts; the end of ctx aborts
// it. An unreadable file is an error of Read, never a missing entry.
func (s *Stack) Diff(ctx context.Context, r layer.Record, parent string) (io.ReadCloser, error) {
	if r.Parent == parent {
		t, err := s.openContent(ctx, r)
		if err != nil {
			return nil, err
		}
		return newStream(ctx, t, func(ctx context.Context, w io.Writer) error {
			tw := treetar.New(w, t.path, s.idmap, s.log)
			return errors.Join(tw.AddTree(ctx), tw.Close())
		}), nil
	}
	// Not what the upper directory holds: compare what both show.
	upper, err := s.openMerged(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	changes, err := s.compare(ctx, upper, parent)
	if err != nil {
		return nil, errors.Join(err, upper.Close(ctx))
	}
	return newStream(ctx, upper, func(ctx context.Context, w io.Writer) error {
		tw := treetar.New(w, upper.path, s.idmap, s.log)
		sortChanges(changes)
		return errors.Join(tw.AddChanges(ctx, changes), tw.Close())
	}), nil
}

// compare lists by what an open merged view differs from another layer's.
func (s *Stack) compare(ctx context.Context, upper *tree, parent string) (_ []archive.Change, err error) {
	if parent != "" {
		if err := layer.ValidateID(parent); err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
	}
	lower, err := s.openMerged(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	changes, err := archive.ChangesDirs(upper.path, lower.path)
	return changes, errors.Join(err, lower.Close(ctx))
}

// stream runs a producer into a pipe and closes the tree it reads from when the
// reader is closed or ctx ends, whichever comes first.
type stream struct {
	*io.PipeReader
	stop    context.CancelFunc
	done    chan struct{} // closed when producer and tree are
	release func() error
	once    sync.Once
	err     error
}

func newStream(ctx context.Context, t *tree, produce func(context.Context, io.Writer) error) *stream {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	s := &stream{PipeReader: r, stop: cancel, done: make(chan struct{})}
	s.release = func() error { return t.Close(ctx) }
	unhook := context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Cause(ctx)) }) // documented to return nil
	go func() {
		defer close(s.done)
		err := produce(ctx, w)
		unhook()
		// Unmounted before the reader sees the end: then the layer may be removed at once.
		s.err = s.release()
		_ = w.CloseWithError(errors.Join(err, s.err)) // nil means EOF; documented to return nil
	}()
	return s
}

// Close ends the stream and waits until nothing of it is mounted.
func (s *stream) Close() error {
	s.once.Do(func() {
		_ = s.PipeReader.Close() // documented to return nil
		s.stop()
		<-s.done
	})
	return s.err
}
