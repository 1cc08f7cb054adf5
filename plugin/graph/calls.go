package graph

import (
	"context"
	"errors"
	"net/http"

	"layervault/driver"
	"layervault/plugin/socket"
)

// call answers one request. An error is the driver's (answered as Err in a 200)
// unless it is a refusal.
type call func(d Driver, x *exchange) (response, error)

// exchange is one request with the way to its answer.
type exchange struct {
	*http.Request
	w     http.ResponseWriter
	id    string // the layer it is about, for the log
	begun bool   // some of the answer has been sent
}

// Write sends part of a streamed answer.
func (x *exchange) Write(p []byte) (int, error) {
	x.begun = true
	return x.w.Write(p)
}

// refusal is an error that is answered with a status of its own.
type refusal struct {
	status int
	err    error
}

func (e refusal) Error() string { return e.err.Error() }
func (e refusal) Unwrap() error { return e.err }

func badRequest(err error) error {
	_, tooLarge := errors.AsType[socket.TooLargeError](err)
	switch {
	case tooLarge:
		return refusal{http.StatusRequestEntityTooLarge, err}
	case errors.Is(err, socket.ErrMethod):
		return refusal{http.StatusMethodNotAllowed, err}
	}
	return refusal{http.StatusBadRequest, err}
}

// calls lists every method of the protocol.
func (s *Server) calls() map[string]call {
	return map[string]call{
		"Init": func(d Driver, x *exchange) (response, error) {
			var req initRequest
			if err := socket.Decode(x.Body, maxRequest, &req); err != nil {
				return response{}, badRequest(err)
			}
			return response{}, d.Init(x.Context(), driver.Options{
				Home: req.Home, Opts: req.Opts,
				UIDMaps: userMaps(req.UIDMaps), GIDMaps: userMaps(req.GIDMaps),
			})
		},
		"Capabilities": func(Driver, *exchange) (response, error) {
			return response{Capabilities: &capabilities{}}, nil
		},
		"Create": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			return response{}, d.Create(ctx, req.ID, req.Parent, req.createOpts())
		}),
		"CreateReadWrite": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			return response{}, d.CreateReadWrite(ctx, req.ID, req.Parent, req.createOpts())
		}),
		"Remove": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			return response{}, d.Remove(ctx, req.ID)
		}),
		"Get": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			dir, err := d.Get(ctx, req.ID, req.MountLabel)
			return response{Dir: dir}, err
		}),
		"Put": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			return response{}, d.Put(ctx, req.ID)
		}),
		"Exists": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			return response{Exists: d.Exists(ctx, req.ID)}, nil
		}),
		"Status": unary(func(ctx context.Context, d Driver, _ request) (response, error) {
			return response{Status: d.Status(ctx)}, nil
		}),
		"GetMetadata": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			meta, err := d.GetMetadata(ctx, req.ID)
			return response{Metadata: meta}, err
		}),
		"Cleanup": unary(func(ctx context.Context, d Driver, _ request) (response, error) {
			return response{}, d.Cleanup(ctx)
		}),
		"Changes": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			changes, err := d.Changes(ctx, req.ID, req.Parent)
			return response{Changes: changes}, err
		}),
		"DiffSize": unary(func(ctx context.Context, d Driver, req request) (response, error) {
			size, err := d.DiffSize(ctx, req.ID, req.Parent)
			return response{Size: size}, err
		}),
		"Diff":      streamDiff,
		"ApplyDiff": applyDiff,
	}
}

// unary decodes the common request before it calls f.
func unary(f func(ctx context.Context, d Driver, req request) (response, error)) call {
	return func(d Driver, x *exchange) (response, error) {
		var req request
		if err := socket.Decode(x.Body, maxRequest, &req); err != nil {
			return response{}, badRequest(err)
		}
		x.id = req.ID
		return f(x.Context(), d, req)
	}
}
