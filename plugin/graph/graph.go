// Package graph is the graph driver front door: it speaks docker.graphdriver/1.0
// over HTTP on one side and calls a [Driver] on the other. It knows no LUKS and
// no mounts.
//
// The protocol has no specification but its client, moby's daemon/graphdriver/proxy.go
// (the same in Docker 20.10 to 27): POST /GraphDriver.METHOD, one JSON request, one
// JSON response, and two streams (Diff out, ApplyDiff in). The client's error handling
// determines this server's design:
//
//   - A failed connection is retried for 30 seconds with the body that was left
//     over, often none. So a request without a body is refused, never taken for
//     a request with all fields empty.
//   - A 200 answer's body is searched for Err, except Diff's, which is taken for a
//     tar whatever it holds. So Diff fails with another status before its first
//     byte and by breaking the connection after it.
//   - A plugin counts as started when its socket accepts. So the server listens
//     first, and requests wait for the driver (see [socket.Gate]).
package graph

import (
	"context"
	"io"
	"log/slog"
	"net/http"

	"github.com/moby/go-archive"

	"layervault/driver"
	"layervault/plugin/socket"
)

// Driver is what this door needs from a graph driver. Each method is all or
// nothing: when its context ends early, no trace of the call is left. Ids and
// parents arrive as dockerd sent them, unchecked; the driver refuses bad ones.
type Driver interface {
	Init(ctx context.Context, opts driver.Options) error
	Create(ctx context.Context, id, parent string, opts *driver.CreateOpts) error
	CreateReadWrite(ctx context.Context, id, parent string, opts *driver.CreateOpts) error
	Remove(ctx context.Context, id string) error
	Get(ctx context.Context, id, mountLabel string) (dir string, err error)
	Put(ctx context.Context, id string) error
	Exists(ctx context.Context, id string) bool
	Status(ctx context.Context) [][2]string
	GetMetadata(ctx context.Context, id string) (map[string]string, error)
	Cleanup(ctx context.Context) error
	Diff(ctx context.Context, id, parent string) (io.ReadCloser, error)
	Changes(ctx context.Context, id, parent string) ([]archive.Change, error)
	ApplyDiff(ctx context.Context, id, parent string, diff io.Reader) (size int64, err error)
	DiffSize(ctx context.Context, id, parent string) (size int64, err error)
}

// Server answers /GraphDriver.* requests. They wait until it is opened with a driver.
type Server struct {
	*socket.Gate[Driver]
	protocol socket.Protocol
}

// New makes a server that is not open. nextStep, if not nil, is the command to type after an
// error.
func New(log *slog.Logger, nextStep func(error) string) *Server {
	return &Server{
		Gate:     socket.NewGate[Driver](),
		protocol: socket.Protocol{Title: "graph driver", Subject: "id", Failed: http.StatusOK, NextStep: nextStep, Log: log},
	}
}

// Implements is the name of this door in the answer to /Plugin.Activate.
func (s *Server) Implements() string { return "GraphDriver" }

// Register adds the endpoints to a handler, which may hold other doors too.
func (s *Server) Register(mux *http.ServeMux) {
	for method, call := range calls() {
		mux.HandleFunc("/GraphDriver."+method, s.Handle(s.protocol, method, func(x *socket.Exchange) (any, error) {
			d, err := s.Wait(x.Context())
			if err != nil {
				return nil, socket.Refusal{Status: http.StatusServiceUnavailable, Err: err}
			}
			return call(d, x)
		}))
	}
}
