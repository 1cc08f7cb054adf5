// Package volume is the volume driver front door: it speaks docker.volumedriver/1.0 over
// HTTP on one side and calls a [Store] on the other. It knows no LUKS and no mounts.
//
// The protocol is described at https://docs.docker.com/engine/extend/plugins_volume/; its
// requests and answers are those of github.com/docker/go-plugins-helpers/volume. That
// package's own handler is not used: it cannot share a socket with another door, and it
// gives a driver no context to stop at when dockerd has gone. dockerd's error
// handling determines the rest:
//
//   - A failed connection is retried for 30 seconds with the body that was left over,
//     often none. So a request without a body is refused, and all calls may be repeated.
//   - Get's Mountpoint is taken as it is, while Path's, List's and Mount's are seen from
//     outside a managed plugin's root file system. So Get says none.
//   - Mount and Create are given 2 minutes, the others one.
package volume

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"layervault/plugin/socket"
	"layervault/volume"
)

// Store is the interface to the volumes that this door needs. Names and options arrive
// as dockerd sent them, unchecked.
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

// Server answers /VolumeDriver.* requests. They wait until it is opened with a store.
type Server struct {
	*socket.Gate[Store]
	protocol socket.Protocol
}

// New makes a server that is not open. nextStep, if not nil, is the command to type after an
// error.
func New(log *slog.Logger, nextStep func(error) string) *Server {
	return &Server{
		Gate: socket.NewGate[Store](),
		// dockerd shows the Err of any status that is not 200; the reference answers 500 too.
		protocol: socket.Protocol{Title: "volume", Subject: "volume", Failed: http.StatusInternalServerError, Level: level, NextStep: nextStep, Log: log},
	}
}

// level is the log level of an error: dockerd asks for a volume before it creates it.
func level(err error) slog.Level {
	if errors.Is(err, volume.ErrNotFound) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// Implements is the name of this door in the answer to /Plugin.Activate.
func (s *Server) Implements() string { return "VolumeDriver" }

// Register adds the endpoints to a handler, which may hold other doors too.
func (s *Server) Register(mux *http.ServeMux) {
	for method, call := range calls() {
		mux.HandleFunc("/VolumeDriver."+method, s.Handle(s.protocol, method, s.endpoint(method, call)))
	}
}

// maxRequest bounds a request, in bytes: a name, an id and a few options.
const maxRequest = 64 << 10

// endpoint decodes the request and waits for the store before it calls.
func (s *Server) endpoint(method string, call call) socket.Call {
	return func(x *socket.Exchange) (any, error) {
		var req request
		if err := x.Decode(maxRequest, &req); err != nil && (!bodyless[method] || !errors.Is(err, socket.ErrEmpty)) {
			return nil, socket.Refusal{Status: http.StatusBadRequest, Err: err}
		}
		x.Subject = req.Name
		store, err := s.Wait(x.Context())
		if err != nil {
			return nil, socket.Refusal{Status: http.StatusServiceUnavailable, Err: err}
		}
		return call(x.Context(), store, req)
	}
}
