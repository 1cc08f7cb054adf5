package socket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/docker/go-plugins-helpers/sdk"
)

// Faults of a request, as opposed to faults of what it asks for.
var (
	ErrMethod = errors.New("method must be POST")
	ErrEmpty  = errors.New("request body was lost when dockerd retried")
	ErrJSON   = errors.New("expected one JSON object as request body")
)

// TooLargeError says that a request body is larger than this many bytes.
type TooLargeError int64

func (e TooLargeError) Error() string {
	return fmt.Sprintf("request body is larger than %d bytes", int64(e))
}

// Decode reads the request's JSON object, of at most most bytes, into req, which is a pointer.
func (x *Exchange) Decode(most int64, req any) error {
	// One byte more than allowed tells "too large" from "just fits".
	body, err := io.ReadAll(io.LimitReader(x.Body, most+1))
	switch {
	case err != nil:
		return fmt.Errorf("read request body: %w", err)
	case int64(len(body)) > most:
		return TooLargeError(most)
	}
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return ErrEmpty
	case body[0] != '{': // "null" would leave every field empty
		return ErrJSON
	}
	if err := json.Unmarshal(body, req); err != nil {
		return fmt.Errorf("%w: %w", ErrJSON, err)
	}
	return nil
}

// encodeError writes an error as docker's plugin client looks for it.
func encodeError(w http.ResponseWriter, status int, err error) {
	encode(w, status, struct{ Err string }{err.Error()})
}

// encode writes an answer, whole and at once: when the plugin stops and its patience has ended, a
// connection is closed as soon as its handler has returned.
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
