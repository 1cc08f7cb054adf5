package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The versions of the API that are spoken. 1.41 is Docker 20.10, the oldest engine that layervault
// runs on. 1.52 is Docker 29, the newest that was tried; a newer engine speaks it too.
const (
	oldestAPI = "1.41"
	newestAPI = "1.52"
)

const (
	// askTimeout bounds one question. Sizes of containers' layers take the longest: the engine
	// walks through all their files.
	askTimeout = 10 * time.Minute
	// maxAnswer bounds an answer that is read as a whole. An image takes some 2 KiB in a list, so
	// this is room for 30,000.
	maxAnswer = 64 << 20
	// maxMessage bounds an error's text.
	maxMessage = 64 << 10
	// hostName is put where HTTP wants a host; the socket says which engine it is.
	hostName = "docker"
)

// Client speaks to one engine. It has no state but the version, and needs no Close.
type Client struct {
	http    *http.Client
	address string
	version string // of the API
}

// Dial asks the engine at an address (unix:///PATH, or a path) which versions it speaks. Errors:
// ErrAddress, ErrNoEngine, ErrAPI.
func Dial(ctx context.Context, address string) (*Client, error) {
	socket := strings.TrimPrefix(address, "unix://")
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("%w, not %q", ErrAddress, address)
	}
	c := &Client{address: "unix://" + socket, http: &http.Client{Transport: &http.Transport{
		// A connection that is kept would outlive what it was for.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
	var has struct {
		Version                   string
		APIVersion, MinAPIVersion string
	}
	// Without a version in the path an engine answers in its newest.
	if err := c.get(ctx, "ask for the version", "/version", nil, &has); err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrNoEngine, c.address, err)
	}
	var err error
	if c.version, err = negotiate(has.APIVersion, has.MinAPIVersion); err != nil {
		return nil, fmt.Errorf("docker %s at %s: %w", has.Version, c.address, err)
	}
	return c, nil
}

// negotiate chooses the newest version that both sides speak.
func negotiate(newest, oldest string) (string, error) {
	n, ok := minor(newest)
	if !ok {
		return "", fmt.Errorf("%w: engine says %q", ErrAPI, newest)
	}
	o, _ := minor(oldest) // engines before 1.12 did not say
	low, _ := minor(oldestAPI)
	high, _ := minor(newestAPI)
	if n < low || o > high {
		return "", fmt.Errorf("%w: engine has %s to %s, layervault %s to %s", ErrAPI, oldest, newest, oldestAPI, newestAPI)
	}
	return "1." + strconv.Itoa(min(n, high)), nil
}

// minor is the second number of a version; the first was always 1.
func minor(version string) (int, bool) {
	text, ok := strings.CutPrefix(version, "1.")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && n >= 0
}

// do sends a request. An answer that is no success becomes an *Error.
func (c *Client) do(ctx context.Context, doing, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: hostName, Path: path, RawQuery: query.Encode()}
	if c.version != "" {
		target.Path = "/v" + c.version + path
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	return nil, errors.Join(refusal(doing, res), res.Body.Close())
}

// refusal reads docker's JSON error; other answers are taken as they are.
func refusal(doing string, res *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, maxMessage)) // the status says enough
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(data, &said) != nil {
		said.Message = strings.TrimSpace(string(data))
	}
	return &Error{Doing: doing, Status: res.StatusCode, Message: said.Message}
}

// get asks a question, and decodes the answer.
func (c *Client) get(ctx context.Context, doing, path string, query url.Values, into any) error {
	return c.ask(ctx, doing, http.MethodGet, path, query, into)
}

// ask sends a request without a body. into is nil where the answer does not matter.
func (c *Client) ask(ctx context.Context, doing, method, path string, query url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	res, err := c.do(ctx, doing, method, path, query, nil)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch err = errors.Join(err, res.Body.Close()); {
	case err != nil:
		return fmt.Errorf("%s: read the answer: %w", doing, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("%s: answer has more than %d bytes", doing, maxAnswer)
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: answer of the engine: %w", doing, err)
	}
	return nil
}
