package socket

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// Protocol is what the endpoints of one door have in common.
type Protocol struct {
	// Title names the door in the log, Subject the attribute that says what a request is about.
	Title, Subject string
	// Failed is the status of an error that is no Refusal.
	Failed int
	// Level is how loud an error is logged; nil for a warning.
	Level func(error) slog.Level
	// NextStep is the command to type after an error, "" for none. An answer ends with that: a
	// person sees only what dockerd prints. nil for no advice.
	NextStep func(error) string
	Log      *slog.Logger
}

// advised is an error with the command to type next.
type advised struct {
	error
	step string
}

func (e advised) Error() string { return e.error.Error() + "; next: " + e.step }
func (e advised) Unwrap() error { return e.error }

// Advise adds to an error the command to type next, unless its text names that already. nextStep
// may be nil.
func Advise(nextStep func(error) string, err error) error {
	if err == nil || nextStep == nil {
		return err
	}
	step := nextStep(err)
	if step == "" || strings.Contains(err.Error(), step) {
		return err
	}
	return advised{err, step}
}

// Exchange is one request with the way to its answer.
type Exchange struct {
	*http.Request
	// Subject is the layer or volume that the request is about, for the log. Options and paths
	// are not logged: this is enough to find them.
	Subject string

	w     http.ResponseWriter
	begun bool // some of the answer has been sent
}

// Header is the header of a streamed answer, to be set before the first Write.
func (x *Exchange) Header() http.Header { return x.w.Header() }

// Write sends part of a streamed answer.
func (x *Exchange) Write(p []byte) (int, error) {
	x.begun = true
	return x.w.Write(p)
}

// Refusal is an error that is answered with a status of its own.
type Refusal struct {
	Status int
	Err    error
}

func (e Refusal) Error() string { return e.Err.Error() }
func (e Refusal) Unwrap() error { return e.Err }

// Call answers one request: with a value, which is sent as JSON unless the call has streamed its
// answer, or with an error.
type Call func(x *Exchange) (any, error)

// Handle makes an endpoint of a call: POST only, counted by the gate, with panics turned into
// errors, the answer written and the request logged.
func (g *Gate[T]) Handle(p Protocol, method string, call Call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !g.Enter() {
			encodeError(w, http.StatusServiceUnavailable, Advise(p.NextStep, ErrStopping))
			return
		}
		defer g.Leave()
		start := time.Now()
		x := &Exchange{Request: r, w: w}
		res, err := p.run(call, x)
		p.report(x, method, time.Since(start), err)
		x.answer(res, Advise(p.NextStep, err), p.Failed)
	}
}

// run makes one call and turns a panic into an error: a fault in one request must not take down
// the layers and volumes of every other container.
func (p Protocol) run(call Call, x *Exchange) (res any, err error) {
	if x.Method != http.MethodPost {
		return nil, Refusal{http.StatusMethodNotAllowed, ErrMethod}
	}
	defer func() {
		if fault := recover(); fault != nil {
			p.Log.Error("panic in a "+p.Title+" request", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			res, err = nil, Refusal{http.StatusInternalServerError, fmt.Errorf("internal fault, see the plugin's log: %v", fault)}
		}
	}()
	return call(x)
}

func (p Protocol) report(x *Exchange, method string, took time.Duration, err error) {
	log := p.Log.With("method", method, p.Subject, x.Subject, "duration", took)
	if err == nil {
		log.Debug(p.Title + " request")
		return
	}
	level := slog.LevelWarn
	if p.Level != nil {
		level = p.Level(err)
	}
	log.Log(x.Context(), level, p.Title+" request failed", "error", err)
}

// answer writes what a call came to; failed is the status of an error that has none.
func (x *Exchange) answer(res any, err error, failed int) {
	var refused Refusal
	switch {
	case x.begun && err != nil:
		// The client has part of a stream. ErrAbortHandler is net/http's own
		// way to break the connection, and it does not log it.
		panic(http.ErrAbortHandler)
	case x.begun:
	case errors.As(err, &refused):
		encodeError(x.w, refused.Status, err)
	case err != nil:
		encodeError(x.w, failed, err)
	default:
		encode(x.w, http.StatusOK, res)
	}
}
