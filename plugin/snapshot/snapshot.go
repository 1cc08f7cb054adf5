// Package snapshot is the door for containerd: its snapshots and diff services over gRPC on one
// side, a snapshotter and a differ on the other. It knows no LUKS and no mounts.
//
// containerd calls these as proxy plugins. Its client determines this server's design:
//
//   - A refused connection costs every container that is being started, and dockerd remembers
//     it. So the socket answers at once, whatever the vault does.
//   - Errors are compared by gRPC codes. A vault that is locked answers FailedPrecondition with
//     the reason and the command to type, never hangs, and tries again at the next request.
//   - ErrNotImplemented of a differ makes containerd go on with its next one.
package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/diffservice"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"layervault/plugin/socket"
)

// Snapshotter is what the door needs of a snapshotter.
type Snapshotter interface {
	snapshots.Snapshotter
	snapshots.Cleaner
}

// Differ is what the door needs of a differ.
type Differ interface {
	diff.Applier
	diff.Comparer
}

// Backend is what an open door leads to.
type Backend struct {
	Snapshotter Snapshotter
	Differ      Differ
}

// Config makes a Server.
type Config struct {
	// Open opens the vault and what lies behind the door. It is called until it succeeds once,
	// by one goroutine at a time, at the start and at each request until then.
	Open func(ctx context.Context) (*Backend, error)
	// NextStep is the command to type after an error, "" for none; nil for no advice.
	NextStep func(error) string
	Log      *slog.Logger
}

// Service is a gRPC service of the door.
type Service int

// The services, each on as many sockets as wanted.
const (
	Snapshots Service = 1 << iota
	Diffs
)

// maxMessage bounds a request, as containerd bounds its own.
const maxMessage = 16 << 20

// closePatience is how long the last answers may take to reach their clients.
const closePatience = time.Second

// Server is the door.
type Server struct {
	cfg    Config
	gate   *socket.Gate[*Backend]
	opener *opener
}

// New makes a door that is opened by the first success of cfg.Open. It ends with ctx.
func New(ctx context.Context, cfg Config) *Server {
	s := &Server{cfg: cfg, gate: socket.NewGate[*Backend]()}
	s.opener = newOpener(ctx, s.gate, cfg.Open)
	return s
}

// Warm opens what is behind the door before the first request; a failure is for the log.
func (s *Server) Warm(ctx context.Context) {
	if _, err := s.opener.get(ctx); err != nil {
		s.cfg.Log.Error("no snapshots can be served yet", "error", err)
	}
}

// Opened is what the door leads to, nil while it is closed.
func (s *Server) Opened() *Backend { return s.opener.opened() }

// Serve answers on l, which it closes, until ctx ends. It then takes no new request and lets
// those under way finish for as long as patience allows.
func (s *Server) Serve(ctx context.Context, l net.Listener, patience time.Duration, services Service) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	if services&Snapshots != 0 {
		snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(lazySnapshotter{s}))
	}
	if services&Diffs != 0 {
		d := lazyDiffer{s}
		diffapi.RegisterDiffServer(server, diffservice.FromApplierAndComparer(d, d))
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		server.Stop()
		return fmt.Errorf("snapshot socket: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := s.gate.Drain(ctx)
	// The last answers are still on their way to the clients.
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		server.GracefulStop()
	}()
	select {
	case <-sent:
	case <-time.After(closePatience):
		server.Stop() // ends GracefulStop too
		<-sent
	}
	<-served //nolint:errcheck // only that the server was stopped
	return err
}

// unary is around every request but a walk.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	err = s.within(ctx, info.FullMethod, func() (err error) {
		res, err = handler(ctx, req)
		return err
	})
	return res, err
}

// stream is around a walk.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return s.within(ss.Context(), info.FullMethod, func() error { return handler(srv, ss) })
}

// within runs one request: counted by the gate, with a panic turned into an error, and logged.
func (s *Server) within(ctx context.Context, method string, call func() error) (err error) {
	if !s.gate.Enter() {
		return status.Error(codes.Unavailable, socket.Advise(s.cfg.NextStep, socket.ErrStopping).Error())
	}
	defer s.gate.Leave()
	start := time.Now()
	defer func() {
		if fault := recover(); fault != nil {
			s.cfg.Log.Error("panic in a containerd request", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "internal fault, see the log of layervault: %v", fault)
		}
		s.report(ctx, method, time.Since(start), err)
	}()
	return errgrpc.ToGRPC(call()) // the service of a walk leaves its errors as they are
}

// report logs a request. What containerd asks for in the course of things and does not find, or
// finds already there, is no warning.
func (s *Server) report(ctx context.Context, method string, took time.Duration, err error) {
	log := s.cfg.Log.With("method", method, "duration", took)
	switch status.Code(err) {
	case codes.OK:
		log.DebugContext(ctx, "containerd request")
	case codes.NotFound, codes.AlreadyExists, codes.Unimplemented, codes.Canceled:
		log.DebugContext(ctx, "containerd request refused", "error", err)
	default:
		log.WarnContext(ctx, "containerd request failed", "error", err)
	}
}
