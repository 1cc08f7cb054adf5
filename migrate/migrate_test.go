package migrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"layervault/migrate"
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

// hosts are two engines and a migration between them.
type hosts struct {
	from, to *dockertest.Engine
	m        *migrate.Migration
}

func newHosts(t *testing.T, images ...*dockertest.Image) *hosts {
	t.Helper()
	h := &hosts{from: dockertest.Old(t.TempDir()), to: dockertest.New(t.TempDir())}
	h.from.Images = images
	dir := t.TempDir()
	h.m = &migrate.Migration{Dir: dir, Host: migrate.Host{Vault: dir, Content: dir, OnVault: func(string) (bool, error) { return true, nil }}}
	h.m.From, h.m.To = dial(t, h.from), dial(t, h.to)
	return h
}

// dial serves an engine until the test ends.
func dial(t *testing.T, e *dockertest.Engine) *docker.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // a socket's path is short
	must(t, err)
	stop, err := e.Serve(filepath.Join(dir, "s"))
	must(t, err)
	t.Cleanup(func() { stop(); _ = os.RemoveAll(dir) })
	client, err := docker.Dial(t.Context(), "unix://"+filepath.Join(dir, "s"))
	must(t, err)
	return client
}

func image(name string, tags ...string) *dockertest.Image {
	return &dockertest.Image{Tags: tags, Env: []string{"NAME=" + name}, Layers: [][]byte{[]byte("base"), bytes.Repeat([]byte(name), 5000)}}
}

// outcomes runs the migration, and returns what became of each image by its name.
func (h *hosts) outcomes(t *testing.T) (map[string]migrate.Outcome, error) {
	t.Helper()
	report, err := h.m.Run(t.Context(), nil)
	got := map[string]migrate.Outcome{}
	if report != nil {
		for _, r := range report.Images {
			got[r.Name] = r.Outcome
		}
	}
	return got, err
}

// wants compares outcomes.
func wants(t *testing.T, got map[string]migrate.Outcome, want map[string]migrate.Outcome) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("outcomes are %v, want %v", got, want)
	}
	for name, o := range want {
		if got[name] != o {
			t.Errorf("%s: %q, want %q", name, got[name], o)
		}
	}
}

// tagsOf are all tags of an engine.
func tagsOf(e *dockertest.Engine) (all []string) {
	e.Lock()
	defer e.Unlock()
	for _, im := range e.Images {
		all = append(all, im.Tags...)
	}
	slices.Sort(all)
	return all
}

// count counts requests whose path ends so.
func count(e *dockertest.Engine, path string) (n int) {
	e.Lock()
	defer e.Unlock()
	for _, r := range e.Requests {
		if strings.HasSuffix(r, path) {
			n++
		}
	}
	return n
}

func TestRun(t *testing.T) {
	dangling := image("dangling")
	h := newHosts(t, image("a", "a:1", "a:2", "reg.example:5000/a:1"), image("b", "b:1"), dangling)
	h.from.Containers = []string{`{"Id":"c0","Name":"/web","Image":"x","Config":{"Image":"a:1","Cmd":["run me"],"Env":["SECRET=1"]},"HostConfig":{"RestartPolicy":{"Name":"always"}}}`}
	got, err := h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeMoved, "b:1": migrate.OutcomeMoved, h.from.IDOf(dangling): migrate.OutcomeLeft})
	if got := tagsOf(h.to); !slices.Equal(got, []string{"a:1", "a:2", "b:1", "reg.example:5000/a:1"}) {
		t.Errorf("the new engine has %q", got)
	}
	if n := count(h.to, "/images/load"); n != 2 {
		t.Errorf("%d loads of two images", n)
	}
	for _, file := range []string{"state.json", "containers/web.json", "containers/create.txt", "networks.json", "volumes.json"} {
		info, err := os.Lstat(filepath.Join(h.m.Dir, file))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	create, err := os.ReadFile(filepath.Join(h.m.Dir, "containers/create.txt"))
	must(t, err)
	if !strings.Contains(string(create), "docker create --name web --restart always --env SECRET=1 a:1 'run me'\n") {
		t.Errorf("command is %s", create)
	}

	// A second run finds all done, unless the new engine lost an image, or the old one has more.
	h.to.Images = h.to.Images[:1]
	h.from.Images = append(h.from.Images, image("c", "c:1"))
	h.m.Dangling = true
	got, err = h.outcomes(t)
	must(t, err)
	lost, kept := "b:1", "a:1"
	if slices.Contains(h.to.Images[0].Tags, "b:1") {
		lost, kept = kept, lost
	}
	wants(t, got, map[string]migrate.Outcome{kept: migrate.OutcomeDone, lost: migrate.OutcomeMoved, "c:1": migrate.OutcomeMoved, h.from.IDOf(dangling): migrate.OutcomeMoved})
	got, err = h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{kept: migrate.OutcomeDone, lost: migrate.OutcomeDone, "c:1": migrate.OutcomeDone, h.from.IDOf(dangling): migrate.OutcomeDone})
	if len(h.from.Images) != 4 {
		t.Errorf("the old engine has %d images", len(h.from.Images))
	}
}

func TestFaults(t *testing.T) {
	status := func(code int, path, message string) func(h *hosts) {
		return func(h *hosts) {
			h.from.Fault = func(w http.ResponseWriter, r *http.Request, at string) bool {
				if at != path {
					return false
				}
				dockertest.Refuse(w, code, message)
				return true
			}
		}
	}
	// half answers a save with half a tar, and with what follows it.
	half := func(more string, breaks bool) func(h *hosts) {
		return func(h *hosts) {
			h.from.Fault = func(w http.ResponseWriter, r *http.Request, at string) bool {
				if at != "/images/get" {
					return false
				}
				_, _ = w.Write(append(bytes.Clone(savedTar(t, h)[:3000]), more...))
				if breaks {
					panic(http.ErrAbortHandler)
				}
				return true
			}
		}
	}
	says := func(text string) func(h *hosts) { return func(h *hosts) { h.to.LoadSays = text } }
	for name, tc := range map[string]struct {
		fault func(h *hosts)
		want  error
		text  string
		tried int // images
	}{
		"save refused":       {status(500, "/images/get", "layer does not exist"), migrate.ErrUnfinished, "docker answers: layer does not exist", 2},
		"save in use":        {status(409, "/images/get", "try later"), docker.ErrConflict, "try later", 2},
		"save without words": {status(500, "/images/get", ""), migrate.ErrUnfinished, "internal server error", 2},
		"save breaks off":    {half("", true), migrate.ErrUnfinished, "unexpected EOF", 1},
		"save ends early":    {half("", false), migrate.ErrArchive, "unexpected EOF", 2},
		"save ends in JSON":  {half(`{"errorDetail":{"message":"x"}}`, false), migrate.ErrArchive, "", 2},
		"disk full":          {says(`{"errorDetail":{"message":"write /x: no space left on device"},"error":"x"}`), unix.ENOSPC, "no space left", 1},
		"refused at once": {func(h *hosts) {
			for _, im := range h.from.Images { // more than the sockets and the server hold
				im.Layers = append(im.Layers, bytes.Repeat(im.Layers[1], 1000))
			}
			h.to.Fault = func(w http.ResponseWriter, _ *http.Request, at string) bool {
				if at == "/images/load" {
					_, _ = w.Write([]byte(`{"errorDetail":{"message":"no space left on device"}}`))
				}
				return at == "/images/load"
			}
		}, unix.ENOSPC, "no space left", 1},
		"load fails":         {says(`{"error":"invalid tar"}`), migrate.ErrUnfinished, "invalid tar", 2},
		"not unpacked":       {says(`{"stream":"Error unpacking image a:1: failed to extract"}`), docker.ErrUnpack, "failed to extract", 2},
		"disk full unpacked": {says(`{"stream":"Error unpacking image a:1: no space left on device"}`), unix.ENOSPC, "", 1},
		"answer breaks off":  {says(`{"stream":"Loa`), migrate.ErrUnfinished, "unexpected EOF", 1},
		"other content":      {func(h *hosts) { h.to.Spoil = func(im *dockertest.Image) { im.Env = []string{"OTHER=1"} } }, migrate.ErrContent, "differs on the new engine: env", 2},
		"other layers":       {func(h *hosts) { h.to.Spoil = func(im *dockertest.Image) { im.Layers = im.Layers[:1] } }, migrate.ErrContent, "layers", 2},
		"not there": {func(h *hosts) {
			h.to.Spoil = func(*dockertest.Image) { h.to.Fault = gone("/images/a:1/json", "/images/b:1/json") }
		}, migrate.ErrContent, "not there", 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, image("a", "a:1"), image("b", "b:1"))
			tc.fault(h)
			got, err := h.outcomes(t)
			if !errors.Is(err, tc.want) || !errors.Is(err, migrate.ErrUnfinished) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error is %v", err)
			}
			if len(got) != tc.tried {
				t.Errorf("tried %v, want %d images", got, tc.tried)
			}
			// The next run, without the fault, does the rest.
			h.mend()
			got, err = h.outcomes(t)
			must(t, err)
			wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeMoved, "b:1": migrate.OutcomeMoved})
		})
	}
}

// mend takes the faults away, and the images of the new engine. A request that was broken off may
// still be at its end.
func (h *hosts) mend() {
	h.from.Lock()
	h.from.Fault = nil
	h.from.Unlock()
	h.to.Lock()
	h.to.Fault, h.to.Spoil, h.to.LoadSays, h.to.Images = nil, nil, "", nil
	h.to.Unlock()
}

// gone answers that there is no such image, once it was asked for that before.
func gone(paths ...string) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, at string) bool {
		if !slices.Contains(paths, at) {
			return false
		}
		dockertest.Refuse(w, http.StatusNotFound, "No such image")
		return true
	}
}

// savedTar is what the old engine would save.
func savedTar(t *testing.T, h *hosts) []byte {
	t.Helper()
	rec := &recorder{header: http.Header{}}
	other := &dockertest.Engine{Images: h.from.Images, Version: "26", API: "1.45"}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1.45/images/get?names=a:1", nil)
	must(t, err)
	other.ServeHTTP(rec, req)
	return rec.Bytes()
}

type recorder struct {
	bytes.Buffer
	header http.Header
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(int)     {}

// What is damaged is never loaded: the other side sees no end of it.
func TestDamagedIsNotLoaded(t *testing.T) {
	h := newHosts(t, image("a", "a:1"))
	whole := savedTar(t, h)
	other := newHosts(t, image("b", "b:1"))
	for name, data := range map[string][]byte{
		"empty": {}, "no end mark": whole[:len(whole)-1024], "half an end mark": whole[:len(whole)-512], "another image": savedTar(t, &hosts{from: renamed(other.from)}),
		"more behind the end": append(bytes.Clone(whole), "more"...), "no tar": bytes.Repeat([]byte("x"), 4096),
	} {
		t.Run(name, func(t *testing.T) {
			h.from.Fault = func(w http.ResponseWriter, r *http.Request, at string) bool {
				if at == "/images/get" {
					_, _ = w.Write(data)
				}
				return at == "/images/get"
			}
			if _, err := h.outcomes(t); !errors.Is(err, migrate.ErrArchive) {
				t.Errorf("error is %v", err)
			}
			if got := tagsOf(h.to); len(got) > 0 || len(h.to.Images) > 0 {
				t.Errorf("the new engine has %q, and %d images", got, len(h.to.Images))
			}
		})
	}
}

// renamed gives an engine's image the name a:1.
func renamed(e *dockertest.Engine) *dockertest.Engine {
	e.Images[0].Tags = []string{"a:1"}
	return e
}

func TestVanished(t *testing.T) {
	h := newHosts(t, image("a", "a:1"), image("b", "b:1"))
	asked := 0
	h.from.Fault = func(w http.ResponseWriter, _ *http.Request, at string) bool {
		if strings.HasSuffix(at, h.from.IDOf(h.from.Images[0])+"/json") {
			if asked++; asked > 1 {
				dockertest.Refuse(w, http.StatusNotFound, "No such image")
				return true
			}
		}
		return false
	}
	got, err := h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeGone, "b:1": migrate.OutcomeMoved})
}

func TestConflict(t *testing.T) {
	h := newHosts(t, image("a", "a:1"), image("b", "b:1"))
	h.to.Images = []*dockertest.Image{image("theirs", "a:1")}
	plan, err := h.m.Plan(t.Context())
	if !errors.Is(err, migrate.ErrOtherImage) || plan == nil {
		t.Errorf("plan: %v", err)
	}
	got, err := h.outcomes(t)
	if !errors.Is(err, migrate.ErrOtherImage) {
		t.Errorf("run: %v", err)
	}
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeFailed, "b:1": migrate.OutcomeMoved})
	if h.to.Images[0].Env[0] != "NAME=theirs" || !slices.Equal(h.to.Images[0].Tags, []string{"a:1"}) {
		t.Errorf("their image is %v", h.to.Images[0])
	}
}

func TestPull(t *testing.T) {
	digest := "reg/a@sha256:" + strings.Repeat("1", 64)
	a, b := image("a", "reg/a:1", "reg/a:2"), image("b", "reg/b:1")
	a.Digests, b.Digests = []string{digest}, []string{"reg/b@sha256:" + strings.Repeat("2", 64)}
	h := newHosts(t, a, b)
	h.to.Registry = map[string]*dockertest.Image{digest: a} // and no b
	h.m.Pull = true
	got, err := h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"reg/a:1": migrate.OutcomePulled, "reg/b:1": migrate.OutcomeMoved})
	if got := tagsOf(h.to); !slices.Equal(got, []string{"reg/a:1", "reg/a:2", "reg/b:1"}) {
		t.Errorf("the new engine has %q", got)
	}
}

// One engine after the other, with the folder between.
func TestArchive(t *testing.T) {
	h := newHosts(t, image("a", "a:1", "a:2"), image("b", "b:1"))
	from, to := h.m.From, h.m.To
	h.m.To = nil
	got, err := h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeSaved, "b:1": migrate.OutcomeSaved})
	got, err = h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeDone, "b:1": migrate.OutcomeDone})

	// A flipped bit is seen, and nothing of it loaded; the other image is.
	h.m.From, h.m.To = nil, to
	file := filepath.Join(h.m.Dir, "images", strings.TrimPrefix(h.from.IDOf(h.from.Images[0]), "sha256:")+".tar")
	data, err := os.ReadFile(file)
	must(t, err)
	data[700] ^= 1
	must(t, os.WriteFile(file, data, 0o600))
	got, err = h.outcomes(t)
	if !errors.Is(err, migrate.ErrArchive) {
		t.Errorf("a flipped bit: %v", err)
	}
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeFailed, "b:1": migrate.OutcomeMoved})
	if got := tagsOf(h.to); !slices.Equal(got, []string{"b:1"}) {
		t.Errorf("the new engine has %q", got)
	}
	data[700] ^= 1
	must(t, os.WriteFile(file, data, 0o600))
	got, err = h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeMoved, "b:1": migrate.OutcomeDone})
	if got := tagsOf(h.to); !slices.Equal(got, []string{"a:1", "a:2", "b:1"}) {
		t.Errorf("the new engine has %q", got)
	}

	// Clean removes from both, but not what a container needs.
	h.m.From = from
	h.from.Containers = []string{`{"Image":"` + h.from.IDOf(h.from.Images[1]) + `"}`}
	list, err := h.m.Removable(t.Context())
	must(t, err)
	if len(list) != 2 || !list[0].Tar || !list[1].Tar {
		t.Fatalf("removable is %v", list)
	}
	for _, r := range list {
		if err := h.m.Clean(t.Context(), r); errors.Is(err, docker.ErrConflict) != (r.Name() == "b:1") {
			t.Errorf("%s: %v", r.Name(), err)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tar of a:1: %v", err)
	}
	if got := tagsOf(h.from); !slices.Equal(got, []string{"b:1"}) {
		t.Errorf("the old engine has %q", got)
	}
	if got := tagsOf(h.to); len(got) != 3 {
		t.Errorf("the new engine has %q", got)
	}
}

// An engine lets go all names of an image but the last while a container needs the image. Clean
// takes none.
func TestCleanKeepsNames(t *testing.T) {
	h := newHosts(t, image("a", "a:1", "a:2"))
	_, err := h.outcomes(t)
	must(t, err)
	h.from.Containers = []string{`{"Name":"/keeper","Image":"` + h.from.IDOf(h.from.Images[0]) + `"}`}
	list, err := h.m.Removable(t.Context())
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("removable is %v", list)
	}
	if err := h.m.Clean(t.Context(), list[0]); !errors.Is(err, docker.ErrConflict) || !strings.Contains(err.Error(), "container keeper") {
		t.Errorf("%v", err)
	}
	if got := tagsOf(h.from); !slices.Equal(got, []string{"a:1", "a:2"}) {
		t.Errorf("the old engine has %q", got)
	}
}

// Clean leaves what the new engine does not have as it was.
func TestCleanAfterLoss(t *testing.T) {
	h := newHosts(t, image("a", "a:1"), image("b", "b:1"))
	_, err := h.outcomes(t)
	must(t, err)
	h.to.Images = nil
	if list, err := h.m.Removable(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("removable is %v, %v", list, err)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(h *hosts)
		want   error
	}{
		"same engine":    {func(h *hosts) { h.to.ID, h.to.Root = h.from.ID, h.from.Root }, migrate.ErrSameEngine},
		"other driver":   {func(h *hosts) { h.to.Driver = "overlayfs" }, migrate.ErrClearEngine},
		"graph driver":   {func(h *hosts) { h.to.Snapshotter = false }, migrate.ErrClearEngine},
		"clear folder":   {func(h *hosts) { h.m.Host.OnVault = func(string) (bool, error) { return false, nil } }, migrate.ErrClearFolder},
		"no folder":      {func(h *hosts) { h.m.Dir += "/none" }, fs.ErrNotExist},
		"state of later": {func(h *hosts) { _ = os.WriteFile(h.m.Dir+"/state.json", []byte(`{"version":2}`), 0o600) }, migrate.ErrState},
		"no space": {func(h *hosts) {
			h.from.Images[0].Tags = []string{"a:1"}
			h.from.Fault = func(w http.ResponseWriter, _ *http.Request, at string) bool {
				if !strings.HasPrefix(at, "/images/sha256:") {
					return false
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"Id": "sha256:" + strings.Repeat("1", 64), "RepoTags": []string{"a:1"}, "Size": int64(1) << 60})
				return true
			}
		}, migrate.ErrSpace},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, image("a", "a:1"))
			tc.change(h)
			if _, err := h.outcomes(t); !errors.Is(err, tc.want) {
				t.Errorf("error is %v", err)
			}
			if len(h.to.Images) != 0 {
				t.Error("something was moved")
			}
		})
	}
	h := newHosts(t, image("a", "a:1"))
	h.to.Driver = "overlayfs"
	h.m.Clear = true
	h.m.Host.OnVault = func(string) (bool, error) { return false, nil }
	got, err := h.outcomes(t)
	must(t, err)
	wants(t, got, map[string]migrate.Outcome{"a:1": migrate.OutcomeMoved})
}

// A run that is told to end ends, and the next one goes on.
func TestCancelled(t *testing.T) {
	h := newHosts(t, image("a", "a:1"), image("b", "b:1"))
	ctx, cancel := context.WithCancel(t.Context())
	report, err := h.m.Run(ctx, func(done, _ int, _ string) {
		if done == 1 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || report == nil {
		t.Fatalf("error is %v", err)
	}
	if got := tagsOf(h.to); len(got) != 1 {
		t.Errorf("the new engine has %q", got)
	}
	got, err := h.outcomes(t)
	must(t, err)
	if n := len(got); n != 2 || count(h.to, "/images/load") != 2 {
		t.Errorf("outcomes are %v", got)
	}
}

// Two migrations do not work in one folder.
func TestBusy(t *testing.T) {
	h := newHosts(t, image("a", "a:1"))
	_, err := h.m.Run(t.Context(), func(int, int, string) {
		if _, err := h.m.Run(t.Context(), nil); !errors.Is(err, migrate.ErrBusy) {
			t.Errorf("a second run: %v", err)
		}
	})
	must(t, err)
}

func TestPlan(t *testing.T) {
	h := newHosts(t, image("a", "a:1", "a:2"))
	h.from.Containers = []string{
		`{"Id":"c0","Name":"/web","State":{"Status":"running"},"Config":{"Image":"a:1","Labels":{"com.docker.compose.project":"shop"}},
		"HostConfig":{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}},"NetworkSettings":{"Networks":{"shopnet":{}}},
		"Mounts":[{"Type":"volume","Name":"data","Source":"/x","Destination":"/data","RW":true},{"Type":"bind","Source":"/etc/shop","Destination":"/conf"}]}`,
		`{"Id":"c1","Name":"/db","State":{"Status":"exited"},"Config":{"Image":"a:1"}}`,
	}
	h.from.Volumes = `[{"Name":"data","Driver":"layervault:latest","Mountpoint":"/y"},{"Name":"cache","Driver":"local","Mountpoint":"/var/lib/docker/volumes/cache/_data"}]`
	h.from.Networks = `[{"Name":"bridge"},{"Name":"shopnet"},{"Name":"host"}]`
	plan, err := h.m.Plan(t.Context())
	must(t, err)
	db, web := plan.Containers[0], plan.Containers[1]
	if web.Restart != "on-failure:3" || web.Compose != "shop" || !slices.Equal(web.Mounts, []string{"data:/data", "/etc/shop:/conf"}) || web.Status != "running" || db.Writable != 1000 || db.Restart != "no" {
		t.Errorf("containers are %+v", plan.Containers)
	}
	if v := plan.Volumes; len(v) != 2 || v[0].Path == "" || v[0].Same || !v[1].Same || v[1].Path != "" {
		t.Errorf("volumes are %+v", v)
	}
	if !slices.Equal(plan.Networks, []string{"shopnet"}) {
		t.Errorf("networks are %q", plan.Networks)
	}
	sizes := map[string]int64{}
	for _, n := range plan.Space {
		sizes[n.For] = n.Needed
		if !n.Enough || n.Free == 0 {
			t.Errorf("space is %+v", n)
		}
	}
	if want := int64(5004 + 5004/8); sizes["layers of the new engine"] != want {
		t.Errorf("needs are %v, want %d", sizes, want)
	}
	if len(h.to.Images) != 0 || exists(h.m.Dir+"/state.json") {
		t.Error("a plan changed something")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A tar of one engine's own making passes bit by bit; its sum is in the state.
func TestTarIsUnchanged(t *testing.T) {
	h := newHosts(t, image("a", "a:1"))
	h.m.To = nil
	_, err := h.outcomes(t)
	must(t, err)
	data, err := os.ReadFile(filepath.Join(h.m.Dir, "images", strings.TrimPrefix(h.from.IDOf(h.from.Images[0]), "sha256:")+".tar"))
	must(t, err)
	if want := savedTar(t, h); !bytes.Equal(data, want) {
		t.Errorf("%d bytes, want %d", len(data), len(want))
	}
	state, err := os.ReadFile(filepath.Join(h.m.Dir, "state.json"))
	must(t, err)
	got := sha256.Sum256(data)
	if !strings.Contains(string(state), hex.EncodeToString(got[:])) {
		t.Errorf("state is %s", state)
	}
}
