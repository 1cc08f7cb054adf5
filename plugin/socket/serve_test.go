package socket_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"go.uber.org/goleak"

	"layervault/plugin/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door has the endpoints /NAME.Say, which answers at once, and /NAME.Hold and /NAME.Stream, which
// send on entered and go on when released is closed.
type door struct {
	*socket.Gate[string]
	name     string
	entered  chan struct{}
	released chan struct{}
}

func newDoor(name string) *door {
	d := &door{socket.NewGate[string](), name, make(chan struct{}, 9), make(chan struct{})}
	d.Open("hello")
	return d
}

func (d *door) Implements() string { return d.name }

func (d *door) Register(mux *http.ServeMux) {
	p := socket.Protocol{Title: d.name, Subject: "id", Failed: http.StatusTeapot, Log: slog.New(slog.DiscardHandler)}
	p.NextStep = func(err error) string {
		return map[string]string{"locked": "unlock it", "told: unlock it": "unlock it"}[err.Error()]
	}
	calls := map[string]socket.Call{
		"Locked": func(*socket.Exchange) (any, error) { return nil, errors.New("locked") },
		"Told":   func(*socket.Exchange) (any, error) { return nil, errors.New("told: unlock it") },
		"Say":    func(*socket.Exchange) (any, error) { return map[string]string{"Said": "hello"}, nil },
		"Hold": func(*socket.Exchange) (any, error) {
			d.entered <- struct{}{}
			<-d.released
			return struct{}{}, nil
		},
		"Stream": func(x *socket.Exchange) (any, error) {
			x.Header().Set("Content-Type", "application/x-tar")
			_, err := io.WriteString(x, strings.Repeat("x", 1<<16))
			d.entered <- struct{}{}
			<-d.released
			_, endErr := io.WriteString(x, "end")
			return nil, errors.Join(err, endErr)
		},
		"Fail": func(*socket.Exchange) (any, error) { return nil, errors.New("no <layer>") },
		"Refuse": func(*socket.Exchange) (any, error) {
			return nil, socket.Refusal{Status: http.StatusConflict, Err: errors.New("refused")}
		},
	}
	for method, call := range calls {
		mux.HandleFunc("/"+d.name+"."+method, d.Handle(p, method, call))
	}
}

// server is doors on a socket.
type server struct {
	*testing.T
	path string
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, patience time.Duration, doors ...socket.Door) server {
	t.Helper()
	s := server{T: t, path: filepath.Join(t.TempDir(), "s.sock"), done: make(chan error, 1)}
	l, err := socket.Listen(t.Context(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go func() { s.done <- socket.Serve(ctx, l, patience, doors...) }()
	t.Cleanup(s.stop)
	return s
}

// client is one connection.
type client struct {
	*testing.T
	net.Conn
	in *bufio.Reader
}

func (s server) dial() client {
	s.Helper()
	conn, err := net.Dial("unix", s.path)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	return client{s.T, conn, bufio.NewReader(conn)}
}

func (c client) send(method string) {
	c.Helper()
	if _, err := fmt.Fprintf(c, "POST /%s HTTP/1.1\r\nHost: plugin\r\nContent-Length: 2\r\n\r\n{}", method); err != nil {
		c.Fatal(err)
	}
}

// answer reads one answer: status and body.
func (c client) answer() string {
	c.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, body)
}

// closed wants the server to have closed the connection.
func (c client) closed() {
	c.Helper()
	if b, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		c.Errorf("connection is open: %q, %v", b, err)
	}
}

// gone waits until the socket file is removed: from then on no connection is taken.
func (s server) gone() {
	s.Helper()
	for {
		if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (s server) ended() error {
	s.Helper()
	s.stop()
	err := <-s.done
	s.gone()
	return err
}

// What the doors do not say themselves is said as docker's own SDK says it, to the byte.
func TestAsTheSDK(t *testing.T) {
	ours := start(t, time.Minute, newDoor("GraphDriver"), newDoor("VolumeDriver"))
	theirs := server{T: t, path: filepath.Join(t.TempDir(), "sdk.sock")}
	l, err := net.Listen("unix", theirs.path)
	if err != nil {
		t.Fatal(err)
	}
	h := sdk.NewHandler(`{"Implements": ["GraphDriver", "VolumeDriver"]}`)
	served := make(chan struct{})
	go func() { defer close(served); _ = h.Serve(l) }()
	date := regexp.MustCompile(`Date: [^\r]*`)
	for _, request := range []string{
		"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n",
		"GET /Plugin.Activate HTTP/1.0\r\n\r\n",
		"POST /GraphDriver.Nonsense HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"nonsense\r\n\r\n",
	} {
		var answers []string
		for _, s := range []server{ours, theirs} {
			c := s.dial()
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, date.ReplaceAllString(string(answer), "Date"))
		}
		if answers[0] != answers[1] || answers[0] == "" {
			t.Errorf("%q is answered\n%q, by the SDK\n%q", request, answers[0], answers[1])
		}
	}
	if err := errors.Join(ours.ended(), l.Close()); err != nil {
		t.Error(err)
	}
	<-served
}

func TestAnswers(t *testing.T) {
	d := newDoor("D")
	s := start(t, time.Minute, d)
	c := s.dial()
	for method, want := range map[string]string{
		"D.Say": `200 {"Said":"hello"}`, "D.Fail": `418 {"Err":"no \u003clayer\u003e"}`, "D.Refuse": `409 {"Err":"refused"}`,
		"D.Locked": `418 {"Err":"locked; next: unlock it"}`, "D.Told": `418 {"Err":"told: unlock it"}`,
	} {
		c.send(method)
		if got := c.answer(); got != want {
			t.Errorf("%s: %s", method, got)
		}
	}
	if err := s.ended(); err != nil {
		t.Error(err)
	}
	c.closed()
}

// A plugin that stops finishes what it has begun, also the end of a stream, refuses what comes
// after on open connections, of every door, and closes them all.
func TestStop(t *testing.T) {
	one, two := newDoor("One"), newDoor("Two")
	s := start(t, time.Minute, one, two)
	holding, streaming, idle, silent := s.dial(), s.dial(), s.dial(), s.dial()
	holding.send("One.Hold")
	streaming.send("One.Stream")
	idle.send("Two.Say")
	if got := idle.answer(); got != `200 {"Said":"hello"}` {
		t.Error(got)
	}
	<-one.entered
	<-one.entered
	s.stop()
	s.gone()
	if err := two.Drain(t.Context()); err != nil { // already drained, or about to be
		t.Error(err)
	}
	idle.send("Two.Say")
	if got := idle.answer(); got != `503 {"Err":"plugin is stopping"}` {
		t.Error(got)
	}
	select {
	case err := <-s.done:
		t.Errorf("ended with requests under way: %v", err)
	default:
	}
	close(one.released)
	if got := holding.answer(); got != "200 {}" {
		t.Error(got)
	}
	if got := streaming.answer(); got != "200 "+strings.Repeat("x", 1<<16)+"end" {
		t.Errorf("%d bytes of a stream", len(got))
	}
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	for _, c := range []client{holding, streaming, idle, silent} {
		c.closed()
	}
}

// A request that does not end holds a plugin for as long as patience allows.
func TestStopWithoutEnd(t *testing.T) {
	d := newDoor("D")
	s := start(t, 10*time.Millisecond, d)
	c := s.dial()
	c.send("D.Hold")
	<-d.entered
	s.stop()
	if err := <-s.done; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still running") {
		t.Errorf("ended with %v", err)
	}
	c.closed()
	close(d.released)
	if err := d.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

// A listener that fails ends the plugin, with the reason.
func TestListenerFails(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := socket.Serve(t.Context(), l, time.Minute, newDoor("D")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}
