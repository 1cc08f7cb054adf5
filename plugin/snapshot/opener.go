package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"layervault/plugin/socket"
)

// errLocked is the class of a door that cannot be opened now.
var errLocked = errors.New("layervault cannot serve snapshots")

// retryAfter is the shortest time between two tries to open: containerd asks in bursts, and
// each try asks a TPM.
const retryAfter = time.Second

// opener opens the door, once, for whoever asks first; others wait for the same try.
type opener struct {
	ctx  context.Context // of the server: a client that goes away ends no try
	gate *socket.Gate[*Backend]
	open func(context.Context) (*Backend, error)

	mu      sync.Mutex
	backend *Backend
	try     *try // under way, or the last one
}

// try is one call of open.
type try struct {
	done  chan struct{}
	ended time.Time // of a failed try
	err   error
}

func newOpener(ctx context.Context, gate *socket.Gate[*Backend], open func(context.Context) (*Backend, error)) *opener {
	return &opener{ctx: ctx, gate: gate, open: open}
}

func (o *opener) opened() *Backend {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.backend
}

// get is the backend, opened if it is not yet. Errors are errdefs.ErrFailedPrecondition.
func (o *opener) get(ctx context.Context) (*Backend, error) {
	t := o.current()
	if t == nil {
		return o.opened(), nil
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: it is still starting: %w", errLocked, context.Cause(ctx))
	}
	if t.err != nil {
		return nil, fmt.Errorf("%w: %w: %w", errLocked, t.err, errdefs.ErrFailedPrecondition)
	}
	return o.opened(), nil
}

// current is the try to wait for, begun if need be; nil if the door is open.
func (o *opener) current() *try {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.backend != nil {
		return nil
	}
	if o.try != nil && (o.try.ended.IsZero() || time.Since(o.try.ended) < retryAfter) {
		return o.try
	}
	t := &try{done: make(chan struct{})}
	o.try = t
	if !o.gate.Enter() { // a stopping process must not open what it would have to close
		t.err, t.ended = socket.ErrStopping, time.Now()
		close(t.done)
		return t
	}
	go o.run(t)
	return t
}

func (o *opener) run(t *try) {
	defer o.gate.Leave()
	backend, err := o.open(o.ctx)
	o.mu.Lock()
	if err == nil {
		o.backend = backend
	} else {
		t.err, t.ended = err, time.Now()
	}
	o.mu.Unlock()
	close(t.done)
}
