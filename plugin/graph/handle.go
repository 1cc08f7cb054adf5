package graph

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"layervault/plugin/socket"
)

// handle wraps a call: POST only, wait for the driver, recover from panics, write
// the answer, log the request.
func (s *Server) handle(method string, call call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.running.Enter() {
			socket.Encode(w, http.StatusServiceUnavailable, response{Err: socket.ErrStopping.Error()})
			return
		}
		defer s.running.Leave()
		start := time.Now()
		x := &exchange{Request: r, w: w}
		res, err := s.run(call, x)

		// No storage options, no paths: the id is enough to find the rest.
		log := s.log.With("method", method, "id", x.id, "duration", time.Since(start))
		if err != nil {
			log.Warn("graph driver request failed", "error", err)
		} else {
			log.Debug("graph driver request")
		}

		var refused refusal
		switch {
		case x.begun && err != nil:
			// The client has part of a stream. ErrAbortHandler is net/http's own
			// way to break the connection, and it does not log it.
			panic(http.ErrAbortHandler)
		case x.begun:
		case errors.As(err, &refused):
			socket.Encode(w, refused.status, response{Err: err.Error()})
		case err != nil:
			socket.Encode(w, http.StatusOK, response{Err: err.Error()})
		default:
			socket.Encode(w, http.StatusOK, res)
		}
	}
}

// run makes one call and turns a panic into an error: a fault in one request must
// not take down the layers of every other container.
func (s *Server) run(call call, x *exchange) (res response, err error) {
	if x.Method != http.MethodPost {
		return response{}, badRequest(socket.ErrMethod)
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a graph driver request", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			res, err = response{}, refusal{http.StatusInternalServerError, fmt.Errorf("internal fault, see the plugin's log: %v", p)}
		}
	}()
	d, err := s.wait(x.Context())
	if err != nil {
		return response{}, refusal{http.StatusServiceUnavailable, err}
	}
	return call(d, x)
}

// Drain refuses further requests and waits until those under way have ended, or
// until ctx ends.
func (s *Server) Drain(ctx context.Context) error { return s.running.Drain(ctx) }
