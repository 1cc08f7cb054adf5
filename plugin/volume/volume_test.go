package volume_test

import (
	"context"
	"encoding/json"
	"errors"
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
	"go.uber.org/goleak"

	"layervault/persist"
	door "layervault/plugin/volume"

	"layervault/plugin/socket"
	"layervault/volume"
	"layervault/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type endpoint struct {
	*testing.T
	client *http.Client
	server *door.Server
}

func serve(t *testing.T) endpoint {
	t.Helper()
	s := door.New(slog.New(slog.DiscardHandler), nil)
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- socket.Serve(ctx, l, time.Minute, s) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		client.CloseIdleConnections()
	})
	return endpoint{t, client, s}
}

func (e endpoint) post(method, body string) (status int, answer string) {
	e.Helper()
	res, err := e.client.Post("http://plugin/"+method, sdk.DefaultContentTypeV1_1, strings.NewReader(body))
	if err != nil {
		e.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		e.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(data))
}

// says wants a status and a part of the answer.
func (e endpoint) says(method, body string, status int, part string) string {
	e.Helper()
	got, answer := e.post(method, body)
	if got != status || !strings.Contains(answer, part) {
		e.Errorf("%s %s: %d %s, want %d with %q", method, body, got, answer, status, part)
	}
	return answer
}

// The whole protocol on the real store.
func TestProtocol(t *testing.T) {
	e := serve(t)
	dir := t.TempDir()
	config := volume.Config{
		Layout: persist.Layout{Root: dir + "/persist"}, Mounts: dir + "/mounts", Scratch: dir + "/scratch",
		Keys: volumetest.OpenKeys, Devices: volumetest.Devices(volumetest.OpenKeys),
	}
	store, err := volume.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	e.server.Open(store)
	e.says("Plugin.Activate", "", 200, `["VolumeDriver"]`)
	e.says("VolumeDriver.Capabilities", "{}", 200, `{"Capabilities":{"Scope":"local"}}`)
	e.says("VolumeDriver.List", "{}", 200, `{"Volumes":[]}`)
	e.says("VolumeDriver.Create", `{"Name":"vol","Opts":{"size":"32M"}}`, 200, `{}`)
	e.says("VolumeDriver.Create", `{"Name":"vol","Opts":{"size":"32M"}}`, 200, `{}`)
	e.says("VolumeDriver.Create", `{"Name":"vol","Opts":{"size":"48M"}}`, 500, `vol has size 33554432, not 50331648`)
	e.says("VolumeDriver.Create", `{"Name":"web","Opts":{"colour":"blue"}}`, 500, `known options: cipher, clear`)
	e.says("VolumeDriver.Create", `{"Name":"../w"}`, 500, `bad name`)
	e.says("VolumeDriver.Path", `{"Name":"vol"}`, 200, `{"Mountpoint":""}`)
	answer := e.says("VolumeDriver.Mount", `{"Name":"vol","ID":"a"}`, 200, dir+"/mounts/")
	var mounted struct{ Mountpoint string }
	if err := json.Unmarshal([]byte(answer), &mounted); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mounted.Mountpoint, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.says("VolumeDriver.Path", `{"Name":"vol"}`, 200, mounted.Mountpoint)
	e.says("VolumeDriver.List", ``, 200, `"Mountpoint":"`+mounted.Mountpoint+`"`)
	got := e.says("VolumeDriver.Get", `{"Name":"vol"}`, 200, `"State":"mounted"`)
	if strings.Contains(got, "Mountpoint") || !strings.Contains(got, `"Size":33554432`) {
		t.Errorf("Get says %s", got)
	}
	e.says("VolumeDriver.Get", `{"Name":"none"}`, 500, `no such volume`)
	e.says("VolumeDriver.Mount", `{"Name":"vol"}`, 500, `has no ID`)
	e.says("VolumeDriver.Mount", `{"Name":"none","ID":"a"}`, 500, `no such volume`)
	e.says("VolumeDriver.Unmount", `{"Name":"none","ID":"a"}`, 200, `{}`)
	e.says("VolumeDriver.Unmount", `{"Name":"vol","ID":"a"}`, 200, `{}`)
	if _, err := os.Stat(mounted.Mountpoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount point: %v", err)
	}
	// docker cp mounts once more under the same id: the container keeps its mount.
	for range 2 {
		e.says("VolumeDriver.Mount", `{"Name":"vol","ID":"a"}`, 200, mounted.Mountpoint)
	}
	e.says("VolumeDriver.Unmount", `{"Name":"vol","ID":"a"}`, 200, `{}`)
	e.says("VolumeDriver.Path", `{"Name":"vol"}`, 200, mounted.Mountpoint)
	e.says("VolumeDriver.Unmount", `{"Name":"vol","ID":"a"}`, 200, `{}`)
	e.says("VolumeDriver.Path", `{"Name":"vol"}`, 200, `{"Mountpoint":""}`)
	// A damaged volume is still there: docker lists it, and may remove it.
	v, err := store.Get(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.Path, []byte("not a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := volume.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	other := serve(t)
	other.server.Open(again)
	other.says("VolumeDriver.List", "", 200, `"Name":"vol"`)
	other.says("VolumeDriver.Mount", `{"Name":"vol","ID":"a"}`, 500, `damaged`)
	other.says("VolumeDriver.Create", `{"Name":"vol"}`, 500, `damaged`)
	other.says("VolumeDriver.Remove", `{"Name":"vol"}`, 200, `{}`)
	other.says("VolumeDriver.Remove", `{"Name":"vol"}`, 500, `no such volume`)
}

func TestBadRequests(t *testing.T) {
	e := serve(t)
	e.server.Refuse(errors.New("no volumes today"))
	for _, body := range []string{"", "null", "[]", "{", `{"Name":1}`} {
		e.says("VolumeDriver.Create", body, 400, `"Err"`)
	}
	e.says("VolumeDriver.Create", `{"Name":"`+strings.Repeat("n", 65<<10)+`"}`, 400, "larger")
	e.says("VolumeDriver.Create", `{"Name":"vol"}`, 503, "no volumes today")
	res, err := e.client.Get("http://plugin/VolumeDriver.List")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", res.Status)
	}
}

// broken panics, as no store should.
type broken struct{ door.Store }

func TestPanicAndWait(t *testing.T) {
	e := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver.List", nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error)
	go func() {
		res, err := e.client.Do(req)
		if err == nil {
			err = res.Body.Close()
		}
		answered <- err
	}()
	cancel() // nobody waits for the store any more
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	e.server.Open(broken{})
	e.says("VolumeDriver.List", "{}", 500, "internal fault")
	e.says("VolumeDriver.Capabilities", "{}", 200, "local")
}
