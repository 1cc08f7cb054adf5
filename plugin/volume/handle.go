package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	"layervault/plugin/socket"
	volumes "layervault/volume"
)

// maxRequest bounds a request, in bytes: a name, an id and a few options.
const maxRequest = 64 << 10

var errNoID = errors.New("a mount without an id could not be taken back")

// handle wraps a call: POST only, wait for the store, recover from panics, write the
// answer, log the request.
func (s *Server) handle(method string, call call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.running.Enter() {
			socket.Encode(w, http.StatusServiceUnavailable, volume.NewErrorResponse(socket.ErrStopping.Error()))
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
			socket.Encode(w, status, volume.NewErrorResponse(err.Error()))
			return
		}
		log.Debug("volume request")
		socket.Encode(w, http.StatusOK, res)
	}
}

// run makes one call and turns a panic into an error.
func (s *Server) run(method string, call call, r *http.Request) (res any, name string, status int, err error) {
	if r.Method != http.MethodPost {
		return nil, "", http.StatusMethodNotAllowed, socket.ErrMethod
	}
	var req request
	if err := socket.Decode(r.Body, maxRequest, &req); err != nil && (!bodyless[method] || !errors.Is(err, socket.ErrEmpty)) {
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

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
