package graph

import (
	"context"
	"errors"
	"net/http"

	"layervault/driver"
	"layervault/plugin/socket"
)

// call answers one request. An error is the driver's (answered as Err in a 200)
// unless it is a [socket.Refusal].
type call func(d Driver, x *socket.Exchange) (response, error)

// badRequest refuses a request for a fault of its own.
func badRequest(err error) error {
	if _, tooLarge := errors.AsType[socket.TooLargeError](err); tooLarge {
		return socket.Refusal{Status: http.StatusRequestEntityTooLarge, Err: err}
	}
	return socket.Refusal{Status: http.StatusBadRequest, Err: err}
}

// calls lists every method of the protocol.
func calls() map[string]call {
	return map[string]call{
		"Init": func(d Driver, x *socket.Exchange) (response, error) {
			var req initRequest
			if err := x.Decode(maxRequest, &req); err != nil {
				return response{}, badRequest(err)
			}
			return response{}, d.Init(x.Context(), driver.Options{
				Home: req.Home, Opts: req.Opts,
				UIDMaps: userMaps(req.UIDMaps), GIDMaps: userMaps(req.GIDMaps),
			})
		},
		"Capabilities": func(Driver, *socket.Exchange) (response, error) {
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
	return func(d Driver, x *socket.Exchange) (response, error) {
		var req request
		if err := x.Decode(maxRequest, &req); err != nil {
			return response{}, badRequest(err)
		}
		x.Subject = req.ID
		return f(x.Context(), d, req)
	}
}
