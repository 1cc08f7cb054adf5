package docker_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/migrate/docker"
	"layervault/migrate/dockertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve serves an engine until the test ends.
func serve(t *testing.T, e *dockertest.Engine) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // a socket's path is short
	must(t, err)
	stop, err := e.Serve(filepath.Join(dir, "s"))
	must(t, err)
	t.Cleanup(func() { stop(); _ = os.RemoveAll(dir) })
	return "unix://" + filepath.Join(dir, "s")
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		newest, oldest string
		want           string // "" for none
	}{
		{"1.41", "1.12", "1.41"},
		{"1.45", "1.24", "1.45"},
		{"1.52", "1.44", "1.52"},
		{"1.56", "1.44", "1.52"},
		{"1.60", "1.52", "1.52"},
		{"1.60", "1.53", ""},
		{"1.40", "1.12", ""},
		{"1.45", "", "1.45"},
		{"2.0", "2.0", ""},
		{"", "", ""},
		{"1.-5", "1.1", ""},
	} {
		e := dockertest.Old(t.TempDir())
		e.API, e.MinAPI = tc.newest, tc.oldest
		client, err := docker.Dial(t.Context(), serve(t, e))
		if (err == nil) != (tc.want != "") || err != nil && !errors.Is(err, docker.ErrAPI) {
			t.Errorf("%q to %q: %v", tc.oldest, tc.newest, err)
		}
		if err != nil {
			continue
		}
		_, err = client.Info(t.Context())
		must(t, err)
		if !slices.Equal(e.Requests, []string{"GET /version", "GET /v" + tc.want + "/info"}) {
			t.Errorf("%q to %q: asked %q", tc.oldest, tc.newest, e.Requests)
		}
	}
}

func TestNoEngine(t *testing.T) {
	for address, want := range map[string]error{
		"tcp://127.0.0.1:2375": docker.ErrAddress, "docker.sock": docker.ErrAddress, "": docker.ErrAddress,
		"unix://" + t.TempDir() + "/none": docker.ErrNoEngine, t.TempDir() + "/none": docker.ErrNoEngine,
	} {
		if _, err := docker.Dial(t.Context(), address); !errors.Is(err, want) {
			t.Errorf("%q: %v", address, err)
		}
	}
	e := dockertest.Old(t.TempDir())
	e.Fault = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		_, _ = w.Write([]byte("<html>"))
		return true
	}
	if _, err := docker.Dial(t.Context(), serve(t, e)); !errors.Is(err, docker.ErrNoEngine) {
		t.Errorf("another server: %v", err)
	}
}

func TestErrors(t *testing.T) {
	e := dockertest.Old(t.TempDir())
	client, err := docker.Dial(t.Context(), serve(t, e))
	must(t, err)
	for name, tc := range map[string]struct {
		status int
		body   string
		is     error
		not    error
		text   string
	}{
		"not found": {404, `{"message":"No such image: x"}`, docker.ErrNotFound, docker.ErrConflict, "inspect image x: docker answers: No such image: x"},
		"in use":    {409, `{"message":"conflict"}`, docker.ErrConflict, docker.ErrNotFound, "conflict"},
		"failed":    {500, `{"message":"x"}`, nil, docker.ErrNotFound, "docker answers: x"},
		"full":      {500, `{"message":"write /y: no space left on device"}`, unix.ENOSPC, docker.ErrNotFound, "no space"},
		"no JSON":   {502, "bad gateway\n", nil, unix.ENOSPC, "docker answers: bad gateway"},
		"no words":  {503, "", nil, unix.ENOSPC, "docker answers: service unavailable"},
		"redirect":  {304, "", nil, unix.ENOSPC, "docker answers: not modified"},
	} {
		e.Lock()
		e.Fault = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.WriteHeader(tc.status)
			_, _ = w.Write([]byte(tc.body))
			return true
		}
		e.Unlock()
		_, err := client.Inspect(t.Context(), "x")
		answered, ok := errors.AsType[*docker.Error](err)
		if !ok || answered.Status != tc.status || tc.is != nil && !errors.Is(err, tc.is) || errors.Is(err, tc.not) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Engines and stores tell the same of one image in different words.
func TestInspect(t *testing.T) {
	same := []string{
		`{"Id":"sha256:1","RepoTags":["b:1","a:1"],"RepoDigests":["a@sha256:2"],"Architecture":"amd64","Os":"linux","Author":"","RootFS":{"Type":"layers","Layers":["sha256:3"]},
		"Config":{"Env":["A=1"],"Cmd":null,"Labels":{},"Volumes":null,"OnBuild":[],"Entrypoint":["/e"],"Hostname":"","AttachStdin":false,"Healthcheck":{"Test":["NONE"]}}}`,
		`{"Id":"sha256:9","RepoTags":["a:1","b:1","a@sha256:2"],"RepoDigests":["a@sha256:2","<none>@<none>"],"Architecture":"amd64","Os":"linux","RootFS":{"Type":"layers","Layers":["sha256:3"]},
		"Config":{"Env":["A=1"],"Entrypoint":["/e"],"Healthcheck":{"Test":["NONE"],"StartInterval":1}},"Descriptor":{}}`,
	}
	var got []string
	for _, text := range same {
		e := dockertest.Old(t.TempDir())
		client, err := docker.Dial(t.Context(), serve(t, e))
		must(t, err)
		e.Lock()
		e.Fault = func(w http.ResponseWriter, _ *http.Request, _ string) bool { _, _ = w.Write([]byte(text)); return true }
		e.Unlock()
		im, err := client.Inspect(t.Context(), "a:1")
		must(t, err)
		im.ID = ""
		data, err := json.Marshal(im)
		must(t, err)
		got = append(got, string(data))
	}
	if got[0] != got[1] {
		t.Errorf("%s\n%s", got[0], got[1])
	}
}

func TestTag(t *testing.T) {
	e := dockertest.Old(t.TempDir())
	im := &dockertest.Image{Tags: []string{"a:1"}}
	e.Images = []*dockertest.Image{im}
	client, err := docker.Dial(t.Context(), serve(t, e))
	must(t, err)
	must(t, client.Tag(t.Context(), e.IDOf(im), "reg:5000/x/y:2"))
	if !slices.Equal(im.Tags, []string{"a:1", "reg:5000/x/y:2"}) {
		t.Errorf("tags are %q", im.Tags)
	}
}
