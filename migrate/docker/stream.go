package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Save reads images as one tar. All names must be of one image for a tar of one image. The end of
// the tar is for the reader to check: an engine that fails half-way ends the stream with its error
// as JSON. Error: ErrNotFound.
func (c *Client) Save(ctx context.Context, names []string) (io.ReadCloser, error) {
	res, err := c.do(ctx, "save image "+names[0], http.MethodGet, "/images/get", url.Values{"names": names}, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Load sends a tar of images, and returns the names and IDs that the engine says it loaded. If
// reading the tar fails, the request breaks off, and the engine loads nothing. Errors: *Error,
// ErrUnpack.
func (c *Client) Load(ctx context.Context, tar io.Reader) (loaded []string, err error) {
	const doing = "load an image"
	res, err := c.do(ctx, doing, http.MethodPost, "/images/load", url.Values{"quiet": {"1"}}, tar)
	if err != nil {
		return nil, err
	}
	err = follow(doing, res.Body, func(line string) error {
		if name, ok := strings.CutPrefix(line, "Loaded image: "); ok {
			loaded = append(loaded, name)
		}
		if id, ok := strings.CutPrefix(line, "Loaded image ID: "); ok {
			loaded = append(loaded, id)
		}
		// Docker 29 keeps the image then, and does not call this an error.
		if strings.HasPrefix(line, "Error unpacking image ") {
			return fmt.Errorf("%w: %w", ErrUnpack, &Error{Doing: doing, Message: line})
		}
		return nil
	})
	return loaded, errors.Join(err, res.Body.Close())
}

// Pull pulls an image by its digest, NAME@sha256:...
func (c *Client) Pull(ctx context.Context, digest string) error {
	doing := "pull image " + digest
	res, err := c.do(ctx, doing, http.MethodPost, "/images/create", url.Values{"fromImage": {digest}}, nil)
	if err != nil {
		return err
	}
	return errors.Join(follow(doing, res.Body, func(string) error { return nil }), res.Body.Close())
}

// follow reads the stream of messages with which an engine answers to long work. line sees each
// line of its text.
func follow(doing string, from io.Reader, line func(string) error) error {
	dec := json.NewDecoder(from)
	for {
		var message struct {
			Stream      string `json:"stream"`
			Error       string `json:"error"`
			ErrorDetail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		switch err := dec.Decode(&message); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: answer of the engine: %w", doing, err)
		case message.Error != "" || message.ErrorDetail.Message != "":
			text := message.ErrorDetail.Message
			if text == "" {
				text = message.Error
			}
			return &Error{Doing: doing, Message: text}
		}
		for text := range strings.Lines(message.Stream) {
			if err := line(strings.TrimSpace(text)); err != nil {
				return err
			}
		}
	}
}
