package graph_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"layervault/plugin/graph"
	"layervault/plugin/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// endpoint is a plugin on a real unix socket, with a client to it.
type endpoint struct {
	path   string
	client *http.Client
	server *graph.Server
}

// serve starts an endpoint and stops it with the test.
func serve(t testing.TB, d graph.Driver) endpoint {
	t.Helper()
	s := graph.New(quiet, nil)
	if d != nil {
		s.Open(d)
	}
	path := filepath.Join(t.TempDir(), "l.sock")
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- socket.Serve(ctx, l, time.Minute, s) }()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		client.CloseIdleConnections()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket file is still there: %v", err)
		}
	})
	return endpoint{path, client, s}
}

// post sends one request and returns the status with the trimmed body.
func (e endpoint) post(t testing.TB, method, body string) string {
	t.Helper()
	res, err := e.client.Post("http://plugin/"+method, sdk.DefaultContentTypeV1_1, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, bytes.TrimSpace(b))
}

// TestGolden has, for each method, the bytes that dockerd 20.10 and 26.1 send and
// those they expect.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		name, method, body string
		want               string // answer
		call               string // what the driver was asked, "" for nothing
	}{
		{"activate", "Plugin.Activate", "", `200 {"Implements": ["GraphDriver"]}`, ""},
		{"init", "GraphDriver.Init", `{"Home":"/h/layervault","Opts":["layervault.size=1G"],"UIDMaps":null,"GIDMaps":null}` + "\n",
			`200 {}`, `Init {Home:/h/layervault Opts:[layervault.size=1G] UIDMaps:[] GIDMaps:[]}`},
		{"init with maps", "GraphDriver.Init", `{"Home":"/h","Opts":null,"UIDMaps":[{"container_id":0,"host_id":100000,"size":65536}],"GIDMaps":[{"container_id":0,"host_id":200000,"size":1}]}`,
			`200 {}`, `Init {Home:/h Opts:[] UIDMaps:[{ID:0 ParentID:100000 Count:65536}] GIDMaps:[{ID:0 ParentID:200000 Count:1}]}`},
		{"init fails", "GraphDriver.Init", `{"Home":"/locked"}`, `200 {"Err":"vault is locked"}`, `Init {Home:/locked Opts:[] UIDMaps:[] GIDMaps:[]}`},
		{"capabilities", "GraphDriver.Capabilities", "{}\n", `200 {"Capabilities":{"ReproducesExactDiffs":false}}`, ""},
		{"create", "GraphDriver.Create", `{"ID":"a","Parent":"b","MountLabel":"l","StorageOpt":{"size":"1G"}}`, `200 {}`, `Create a b {MountLabel:l StorageOpt:map[size:1G]}`},
		{"create fails", "GraphDriver.Create", `{"ID":"bad"}`, `200 {"Err":"layer \"bad\""}`, `Create bad  {MountLabel: StorageOpt:map[]}`},
		{"create read-write", "GraphDriver.CreateReadWrite", `{"ID":"a"}`, `200 {}`, `CreateReadWrite a  {MountLabel: StorageOpt:map[]}`},
		{"unknown field", "GraphDriver.Remove", `{"ID":"a","New":1}`, `200 {}`, `Remove a`},
		{"get", "GraphDriver.Get", `{"ID":"a","MountLabel":"l"}`, `200 {"Dir":"/h/a"}`, `Get a l`},
		{"put", "GraphDriver.Put", `{"ID":"a"}`, `200 {}`, `Put a`},
		{"exists", "GraphDriver.Exists", `{"ID":"a"}`, `200 {"Exists":true}`, `Exists a`},
		{"exists not", "GraphDriver.Exists", `{"ID":"bad"}`, `200 {}`, `Exists bad`},
		{"status", "GraphDriver.Status", "{}\n", `200 {"Status":[["Vault","open"]]}`, `Status`},
		{"metadata", "GraphDriver.GetMetadata", `{"ID":"a"}`, `200 {"Metadata":{"UUID":"u"}}`, `GetMetadata a`},
		{"cleanup", "GraphDriver.Cleanup", "{}\n", `200 {}`, `Cleanup`},
		{"changes", "GraphDriver.Changes", `{"ID":"a","Parent":"b"}`, `200 {"Changes":[{"Path":"/m","Kind":0},{"Path":"/d","Kind":2}]}`, `Changes a b`},
		{"diff size", "GraphDriver.DiffSize", `{"ID":"a","Parent":"b"}`, `200 {"Size":42}`, `DiffSize a b`},
		{"diff", "GraphDriver.Diff", `{"ID":"a","Parent":"b"}`, `200 tar of a`, `Diff a b`},
		{"diff fails at once", "GraphDriver.Diff", `{"ID":"bad"}`, `500 {"Err":"layer \"bad\""}`, `Diff bad `},
		{"diff fails before its first byte", "GraphDriver.Diff", `{"ID":"early"}`, `500 {"Err":"read fault"}`, `Diff early `},
		{"diff without a byte", "GraphDriver.Diff", `{"ID":"none"}`, `500 {"Err":"diff of layer \"none\": tar has no end marker"}`, `Diff none `},
		{"apply", "GraphDriver.ApplyDiff?id=a&parent=b", "0123456789", `200 {"Size":10}`, `ApplyDiff a b`},
		{"apply on no parent", "GraphDriver.ApplyDiff?id=a&parent=", "0123456789", `200 {"Size":10}`, `ApplyDiff a `},
		{"apply does not unescape", "GraphDriver.ApplyDiff?id=a+b%41&parent=c&d", "0", `200 {"Size":1}`, `ApplyDiff a+b%41 c&d`},
		{"apply fails, rest is taken", "GraphDriver.ApplyDiff?id=bad&parent=", strings.Repeat("x", 1<<20), `200 {"Err":"layer \"bad\""}`, `ApplyDiff bad `},
		{"apply without a tar", "GraphDriver.ApplyDiff?id=a&parent=", "", `400 {"Err":"layer \"a\": request body was lost when dockerd retried"}`, ""},
		{"apply without an id", "GraphDriver.ApplyDiff?parent=b", "x", `400 {"Err":"query must be id=ID\u0026parent=PARENT"}`, ""},
		{"empty body", "GraphDriver.Remove", "", `400 {"Err":"request body was lost when dockerd retried"}`, ""},
		{"blank body", "GraphDriver.Cleanup", " \n", `400 {"Err":"request body was lost when dockerd retried"}`, ""},
		{"null body", "GraphDriver.Remove", "null", `400 {"Err":"expected one JSON object as request body"}`, ""},
		{"cut body", "GraphDriver.Remove", `{"ID":"a`, `400 {"Err":"expected one JSON object as request body: unexpected end of JSON input"}`, ""},
		{"two bodies", "GraphDriver.Remove", `{"ID":"a"}{"ID":"b"}`, `400 {"Err":"expected one JSON object as request body: invalid character '{' after top-level value"}`, ""},
		{"wrong type", "GraphDriver.Remove", `{"ID":7}`, `400 {"Err":"expected one JSON object as request body: json: cannot unmarshal number into Go struct field request.ID of type string"}`, ""},
		{"body too large", "GraphDriver.Remove", `{"ID":"` + strings.Repeat("a", 1<<20) + `"}`, `413 {"Err":"request body is larger than 1048576 bytes"}`, ""},
		{"unknown method", "GraphDriver.Nonsense", "{}", `404 404 page not found`, ""},
		{"panic", "GraphDriver.Get", `{"ID":"panic"}`, `500 {"Err":"internal fault, see the plugin's log: boom"}`, "Get panic "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &recorder{}
			if diff := cmp.Diff(tc.want, serve(t, d).post(t, tc.method, tc.body)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.call, d.last()); diff != "" {
				t.Errorf("driver call (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlyPost(t *testing.T) {
	res, err := serve(t, &recorder{}).client.Get("http://plugin/GraphDriver.Status")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("status is %s", res.Status)
	}
}

// A tar that fails on its way must not look like a whole one.
func TestDiffBreaksConnection(t *testing.T) {
	for _, id := range []string{"late", "close"} {
		t.Run(id, func(t *testing.T) {
			e := serve(t, &recorder{})
			res, err := e.client.Post("http://plugin/GraphDriver.Diff", "", strings.NewReader(`{"ID":"`+id+`"}`))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("reading the tar ended with %v", err)
			}
		})
	}
}

// A request that comes before the driver is there waits for it.
func TestWaitsForDriver(t *testing.T) {
	e := serve(t, nil)
	conn, err := net.Dial("unix", e.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /GraphDriver.Exists HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{\"ID\":\"a\"}")
	e.server.Open(&recorder{})
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != `{"Exists":true}` {
		t.Errorf("answer is %q, %v", b, err)
	}
}

// A driver learns that its client has gone, and a cut-off tar is an error to it.
func TestClientGoes(t *testing.T) {
	d := &recorder{applied: make(chan error, 1)}
	e := serve(t, d)
	conn, err := net.Dial("unix", e.path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /GraphDriver.ApplyDiff?id=a&parent= HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	conn.Close()
	if err := <-d.applied; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("driver read %v", err)
	}
}

// A stopping server answers what it has begun and refuses what comes after.
func TestDrain(t *testing.T) {
	s := graph.New(quiet, nil)
	s.Open(&recorder{})
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = http.Serve(l, socket.Handler(s)) }()
	defer func() { l.Close(); <-done }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", l.Addr().String())
	}}}
	defer client.CloseIdleConnections()
	got := endpoint{client: client}.post(t, "GraphDriver.Put", `{"ID":"a"}`)
	if want := `503 {"Err":"plugin is stopping"}`; got != want {
		t.Errorf("answer is %s", got)
	}
}

// FuzzRequest sends any bytes to every method: the server answers, and an answer
// that is no 200 has called no driver.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"", "{}", "null", `{"ID":"a","Parent":"b"}`, `{"StorageOpt":{"size":"1G"}}`, `{"UIDMaps":[{"container_id":1}]}`, "[]", `{"ID":"a"`} {
		f.Add(uint8(0), []byte(s))
	}
	methods := []string{"Init", "Create", "CreateReadWrite", "Remove", "Get", "Put", "Exists", "Status", "GetMetadata", "Cleanup", "Diff", "Changes", "DiffSize", "Capabilities", "ApplyDiff?id=a&parent=b"}
	d := &recorder{}
	e := serve(f, d)
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		d.reset()
		got := e.post(t, "GraphDriver."+methods[int(n)%len(methods)], string(body))
		if strings.HasPrefix(got, "4") && d.last() != "" {
			t.Errorf("refused with %s after the driver was asked %s", got, d.last())
		}
	})
}
