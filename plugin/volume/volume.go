// Package volume is the volume driver front door: it speaks docker.volumedriver/1.0 over
// HTTP on one side and calls a [Store] on the other. It knows no LUKS and no mounts.
//
// The protocol is described at https://docs.docker.com/engine/extend/plugins_volume/; its
// requests and answers are those of github.com/docker/go-plugins-helpers/volume. That
// package's own handler is not used: it cannot share a socket with another door, and it
// gives a driver no context to stop at when dockerd has gone. What dockerd does with
// faults decides the rest:
//
//   - A failed connection is retried for 30 seconds with the body that was left over,
//     often none. So a request without a body is refused, and all calls may be repeated.
//   - Get's Mountpoint is taken as it is, while Path's, List's and Mount's are seen from
//     outside a managed plugin's root file system. So Get says none.
//   - Mount and Create are given 2 minutes, the others one.
package volume

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/docker/go-plugins-helpers/sdk"

	"layervault/plugin/socket"
	"layervault/volume"
)

// Implements is the name of this door in the answer to /Plugin.Activate.
const Implements = "VolumeDriver"

// Store is what this door needs of the volumes. Names and options arrive as dockerd sent
// them, unchecked.
type Store interface {
	Create(ctx context.Context, name string, want volume.Request) (volume.Volume, error)
	Get(ctx context.Context, name string) (volume.Volume, error)
	Inspect(ctx context.Context, name string) (volume.Status, error)
	List(ctx context.Context) ([]volume.Volume, error)
	Mount(ctx context.Context, name, id string) (dir string, err error)
	Unmount(ctx context.Context, name, id string) error
	Mountpoint(v volume.Volume) (string, error)
	Remove(ctx context.Context, name string) error
}

// Server answers /VolumeDriver.* requests.
type Server struct {
	log *slog.Logger

	open sync.Once
	// store and refused are read only after opened is closed.
	store   Store
	refused error
	opened  chan struct{}

	running *socket.Inflight
}

// New makes a server without a store: its requests wait until [Server.Open].
func New(log *slog.Logger) *Server {
	return &Server{log: log, opened: make(chan struct{}), running: socket.NewInflight()}
}

// Open gives the server its store and lets the requests that waited for it go on. Only
// the first call counts.
func (s *Server) Open(store Store) {
	s.open.Do(func() {
		s.store = store
		close(s.opened)
	})
}

// Refuse answers every request with an error: there will be no store. Only the first call
// of Open or Refuse counts.
func (s *Server) Refuse(err error) {
	s.open.Do(func() {
		s.refused = err
		close(s.opened)
	})
}

// Register adds the endpoints to a handler, which may hold other doors too.
func (s *Server) Register(h sdk.Handler) {
	for method, call := range s.calls() {
		h.HandleFunc("/VolumeDriver."+method, s.handle(method, call))
	}
}

// Drain refuses further requests and waits until those under way have ended, or until
// ctx ends.
func (s *Server) Drain(ctx context.Context) error { return s.running.Drain(ctx) }

// wait blocks until the store is there or the client has gone.
func (s *Server) wait(ctx context.Context) (Store, error) {
	select {
	case <-s.opened:
		return s.store, s.refused
	case <-ctx.Done():
		return nil, fmt.Errorf("plugin is still starting: %w", context.Cause(ctx))
	}
}
