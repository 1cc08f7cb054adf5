package graph

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"

	"layervault/plugin/socket"
)

// headStart is how much of a layer tar is read before Diff commits itself to a
// 200: a fault in that much can still be told in words. It is also the copy
// buffer.
const headStart = 64 << 10

// failed is how Diff fails before its first byte: docker takes the body of a 200 for the tar.
func failed(err error) error {
	return socket.Refusal{Status: http.StatusInternalServerError, Err: err}
}

// streamDiff answers Diff: the raw tar, without JSON around it.
func streamDiff(d Driver, x *socket.Exchange) (response, error) {
	var req request
	if err := x.Decode(maxRequest, &req); err != nil {
		return response{}, badRequest(err)
	}
	x.Subject = req.ID
	tar, err := d.Diff(x.Context(), req.ID, req.Parent)
	if err != nil {
		return response{}, failed(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = tar.Close() // something else has failed already
		}
	}()

	in := bufio.NewReaderSize(tar, headStart)
	if head, err := in.Peek(headStart); err != nil {
		if !errors.Is(err, io.EOF) {
			return response{}, failed(err)
		}
		if len(head) == 0 { // even a layer without a file ends with two blocks
			return response{}, failed(fmt.Errorf("diff of layer %q: tar has no end marker", req.ID))
		}
	}
	x.Header().Set("Content-Type", "application/x-tar")
	if _, err := in.WriteTo(x); err != nil {
		return response{}, fmt.Errorf("diff of layer %q: %w", req.ID, err)
	}
	// The last fault may only show when the reader is closed, and the client
	// takes the tar for whole as soon as this function has returned.
	closed = true
	if err := tar.Close(); err != nil {
		return response{}, fmt.Errorf("diff of layer %q: %w", req.ID, err)
	}
	return response{}, nil
}

// applyDiff answers ApplyDiff: the body is an uncompressed tar.
func applyDiff(d Driver, x *socket.Exchange) (response, error) {
	id, parent, err := applyTarget(x.URL.RawQuery)
	if err != nil {
		return response{}, badRequest(err)
	}
	x.Subject = id
	if x.ContentLength == 0 {
		// Not dockerd: it sends a tar in chunks, a tar of no bytes too. Whether that one is an
		// empty layer or a retry whose tar went out with the first attempt, the driver knows.
		return response{}, badRequest(fmt.Errorf("layer %q: %w", id, socket.ErrEmpty))
	}
	in := bufio.NewReaderSize(x.Body, headStart)
	size, err := d.ApplyDiff(x.Context(), id, parent, in)
	if err != nil {
		// Take the rest, or the client may find the connection closed under its
		// write and retry in place of reading the error. One that has gone does neither, and
		// a read of its body may still be under way.
		if x.Context().Err() == nil {
			_, _ = io.Copy(io.Discard, in)
		}
		return response{}, err
	}
	// A tar may be padded after its end marker.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return response{}, fmt.Errorf("layer %q: read the end of the tar: %w", id, err)
	}
	return response{Size: size}, nil
}
