package volume

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"github.com/docker/go-plugins-helpers/volume"

	"layervault/plugin/socket"
	volumes "layervault/volume"
)

// maxRequest bounds a request, in bytes: a name, an id and a few options.
const maxRequest = 64 << 10

var (
	errMethod   = errors.New("only POST is answered")
	errEmpty    = errors.New("empty request body: the connection broke before and the engine sent what was left; repeat the command")
	errTooLarge = fmt.Errorf("request body is larger than %d bytes", maxRequest)
	errJSON     = errors.New("request body is not one JSON object")
	errNoID     = errors.New("a mount without an id could not be taken back")
)

// handle wraps a call: POST only, wait for the store, recover from panics, write the
// answer, log the request.
func (s *Server) handle(method string, call call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.running.Enter() {
			encode(w, http.StatusServiceUnavailable, volume.NewErrorResponse(socket.ErrStopping.Error()))
			return
		}
		defer s.running.Leave()
		start := time.Now()
		res, name, status, err := s.run(method, call, r)
		// No options: the name is enough to find the rest.
		log := s.log.With("method", method, "volume", name, "duration", time.Since(start))
		if err != nil {
			level := slog.LevelWarn
			if errors.Is(err, volumes.ErrNotFound) { // dockerd asks before it creates
				level = slog.LevelDebug
			}
			log.Log(r.Context(), level, "volume request failed", "error", err)
			encode(w, status, volume.NewErrorResponse(err.Error()))
			return
		}
		log.Debug("volume request")
		encode(w, http.StatusOK, res)
	}
}

// run makes one call and turns a panic into an error.
func (s *Server) run(method string, call call, r *http.Request) (res any, name string, status int, err error) {
	if r.Method != http.MethodPost {
		return nil, "", http.StatusMethodNotAllowed, errMethod
	}
	var req request
	if err := decode(r.Body, &req); err != nil && (!bodyless[method] || !errors.Is(err, errEmpty)) {
		return nil, "", http.StatusBadRequest, err
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a volume request", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			res, status, err = nil, http.StatusInternalServerError, fmt.Errorf("internal fault, see the plugin's log: %v", p)
		}
	}()
	store, err := s.wait(r.Context())
	if err != nil {
		return nil, req.Name, http.StatusServiceUnavailable, err
	}
	// dockerd shows the Err of any status that is not 200; the reference answers 500 too.
	res, err = call(r.Context(), store, req)
	return res, req.Name, http.StatusInternalServerError, err
}

// decode reads one JSON object.
func decode(r io.Reader, req *request) error {
	// One byte more than allowed tells "too large" from "just fits".
	body, err := io.ReadAll(io.LimitReader(r, maxRequest+1))
	switch {
	case err != nil:
		return fmt.Errorf("read request body: %w", err)
	case len(body) > maxRequest:
		return errTooLarge
	}
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return errEmpty
	case body[0] != '{': // "null" would leave every field empty
		return errJSON
	}
	if err := json.Unmarshal(body, req); err != nil {
		return fmt.Errorf("%w: %w", errJSON, err)
	}
	return nil
}

// encode writes an answer, whole and at once: when the plugin stops, a connection may be
// closed as soon as its handler has returned.
func encode(w http.ResponseWriter, status int, res any) {
	body, err := json.Marshal(res)
	if err != nil { // no field of a response can fail to encode
		status, body = http.StatusInternalServerError, []byte(`{"Err":"answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// The only error left is that the client has gone, who then learns nothing.
	_, _ = w.Write(body)
	_ = http.NewResponseController(w).Flush()
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
