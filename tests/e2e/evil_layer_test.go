//go:build guest

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plugin is layervault serve on a socket of its own, asked as dockerd does.
type plugin struct {
	t      *testing.T
	cmd    *exec.Cmd
	client *http.Client
	home   string
	stderr bytes.Buffer
}

// graphAnswer is what a graph driver answers.
type graphAnswer struct {
	Err    string
	Dir    string
	Status [][2]string
}

// serve starts the plugin; in a control group, if one is named.
func (m *maid) serve(cgroup string) *plugin {
	m.Helper()
	dir := filepath.Dir(m.persist)
	socket := filepath.Join(dir, "l.sock")
	p := &plugin{t: m.T, home: filepath.Join(dir, "home"), client: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
	args := slices.Concat(m.env, []string{"layervault", "serve", "--socket", socket})
	p.cmd = exec.Command("env", args...)
	if cgroup != "" {
		p.cmd = exec.Command("bash", append([]string{"-c", `echo 0 >"$0/cgroup.procs" && exec env "$@"`, cgroup}, args...)...)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stderr, &p.stderr
	must(m.T, p.cmd.Start())
	m.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	ctx, cancel := context.WithTimeout(m.Context(), 2*time.Minute)
	defer cancel()
	must(m.T, poll(ctx, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			err = c.Close()
		}
		return err == nil, nil
	}))
	must(m.T, os.MkdirAll(p.home, 0o700))
	return p
}

// stop ends the plugin as dockerd does, and unmounts what a layer was shown at.
func (p *plugin) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the plugin ended with %v\n%s", err, p.stderr.String())
	}
}

// ask is one call; body is JSON, or for ApplyDiff a tar.
func (p *plugin) ask(method string, body io.Reader) graphAnswer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), callTime)
	defer cancel()
	// A reader of no known length is sent in chunks, as dockerd does.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/GraphDriver."+method, struct{ io.Reader }{body})
	must(p.t, err)
	res, err := p.client.Do(req)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", method, err, p.stderr.String())
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(p.t, err)
	var a graphAnswer
	must(p.t, json.Unmarshal(data, &a))
	return a
}

func (p *plugin) call(method string, args map[string]any) graphAnswer {
	p.t.Helper()
	body, err := json.Marshal(args)
	must(p.t, err)
	return p.ask(method, bytes.NewReader(body))
}

// does is call, which must not fail.
func (p *plugin) does(method string, args map[string]any) graphAnswer {
	p.t.Helper()
	a := p.call(method, args)
	if a.Err != "" {
		p.t.Fatalf("%s %v: %s\n%s", method, args, a.Err, p.stderr.String())
	}
	return a
}

func (p *plugin) init() { p.t.Helper(); p.does("Init", map[string]any{"Home": p.home}) }

// apply fills a layer with a tar.
func (p *plugin) apply(id, parent string, body io.Reader) graphAnswer {
	p.t.Helper()
	return p.ask("ApplyDiff?"+url.Values{"id": {id}, "parent": {parent}}.Encode(), body)
}

// seal makes a layer of an image with one file.
func (p *plugin) seal(id, parent, text string) {
	p.t.Helper()
	p.does("Create", map[string]any{"ID": id, "Parent": parent})
	if a := p.apply(id, parent, bytes.NewReader(fileTar(text))); a.Err != "" {
		p.t.Fatalf("ApplyDiff: %s", a.Err)
	}
}

// fileTar is the tar of one file. Such a one has no errors: it fits into memory.
func fileTar(text string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "file", Size: int64(len(text)), Mode: 0o644})
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.Bytes()
}

// container makes a container's layer and writes a file into it.
func (p *plugin) container(id, parent, text string) {
	p.t.Helper()
	p.does("CreateReadWrite", map[string]any{"ID": id, "Parent": parent, "StorageOpt": map[string]string{"size": "32M"}})
	if text != "" {
		at := p.does("Get", map[string]any{"ID": id}).Dir
		must(p.t, os.WriteFile(filepath.Join(at, "own"), []byte(text), 0o600))
		p.does("Put", map[string]any{"ID": id})
	}
}

// reads opens a layer and reads a file of it.
func (p *plugin) reads(id, file, want string) {
	p.t.Helper()
	a := p.call("Get", map[string]any{"ID": id})
	if a.Err != "" {
		p.t.Errorf("layer %s does not open: %s", id, a.Err)
		return
	}
	if got, err := os.ReadFile(filepath.Join(a.Dir, file)); err != nil || string(got) != want {
		p.t.Errorf("layer %s shows %q (%v), want %q", id, got, err, want)
	}
	p.does("Put", map[string]any{"ID": id})
}

// Layers: what stands on what, of which kind it is, and which image belongs to which.
func TestEvilMaidLayers(t *testing.T) {
	m := newMaid(t, "key=versatile", "size=64M")
	layer := func(id, file string) string { return filepath.Join(m.persist, "vault/layers", id, file) }
	p := m.serve("")
	p.init()
	p.seal("base", "", "base's")
	p.seal("middle", "base", "middle's")
	p.seal("other", "", "other's")
	p.does("Create", map[string]any{"ID": "young", "Parent": "base"})
	older := t.TempDir()
	sh(t, `cp "$1" "$2/fresh.json"`, layer("young", "layer.json"), older)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, errors.Join(w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644}), w.Close()))
	if a := p.apply("young", "base", &b); a.Err != "" {
		t.Fatal(a.Err)
	}
	p.container("top", "young", "")
	p.container("secret", "base", "the first secret")
	p.stop()
	sh(t, `cp --sparse=always "$1" "$2/secret.luks"`, layer("secret", "image.luks"), older)
	p = m.serve("")
	p.init()
	p.does("Remove", map[string]any{"ID": "secret"})
	p.container("secret", "base", "the secret")
	p.container("container", "middle", "container's own")
	p.stop()
	m.keep()

	edit := func(id string, change func(r map[string]any)) func() {
		return func() {
			data, err := os.ReadFile(layer(id, "layer.json"))
			must(m.T, err)
			var r map[string]any
			must(m.T, json.Unmarshal(data, &r))
			change(r)
			data, err = json.Marshal(r)
			must(m.T, err)
			must(m.T, os.WriteFile(layer(id, "layer.json"), data, 0o600))
		}
	}
	swap := func(a, b string) {
		must(m.T, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	}
	reparent := func(parent string) func() {
		return edit("container", func(r map[string]any) {
			r["parent"] = parent
			data, err := os.ReadFile(layer(parent, "layer.json"))
			must(m.T, err)
			var p map[string]any
			must(m.T, json.Unmarshal(data, &p))
			delete(r, "parent_uuid")
			if p["kind"] == "sealed" {
				r["parent_uuid"] = p["uuid"]
			}
		})
	}
	for _, c := range []struct {
		name, id string // what is opened
		words    []string
		attack   func()
	}{
		{"swapped parents", "container", []string{"container", "not authenticated by the key of its tier"}, reparent("other")},
		{"another container's layer as a lower", "container", []string{"container", "not authenticated by the key of its tier"}, reparent("secret")},
		{"sealed to writable", "middle", []string{"middle", "not authenticated by the key of its tier"}, edit("middle", func(r map[string]any) { r["kind"] = "writable"; delete(r, "size") })},
		{"writable to sealed", "secret", []string{"secret", "not authenticated by the key of its tier"}, edit("secret", func(r map[string]any) { r["kind"] = "sealed"; delete(r, "read_write") })},
		{"format 1 of a record", "middle", []string{"middle", "pull it again"}, edit("middle", func(r map[string]any) {
			r["version"] = 1
			delete(r, "mac")
			delete(r, "parent_uuid")
		})},
		{"record of another layer", "middle", []string{"middle"}, func() { sh(m.T, `cp "$1" "$2"`, layer("other", "layer.json"), layer("middle", "layer.json")) }},
		{"swapped images", "middle", []string{"middle"}, func() { swap(layer("middle", "image.luks"), layer("young", "image.luks")) }},
		{"swapped layers", "middle", []string{"middle"}, func() { swap(filepath.Dir(layer("middle", "x")), filepath.Dir(layer("young", "x"))) }},
		{"copied image", "middle", []string{"middle"}, func() { sh(m.T, `cp "$1" "$2"`, layer("young", "image.luks"), layer("middle", "image.luks")) }},
		{"older image of the same layer", "secret", []string{"secret", "image does not match the layer record"}, func() {
			sh(m.T, `cp --sparse=always "$1/secret.luks" "$2"`, older, layer("secret", "image.luks"))
		}},
		{"older record of the same layer", "top", []string{"young", "not authenticated by the key of its tier"}, func() {
			sh(m.T, `cp "$1/fresh.json" "$2"`, older, layer("young", "layer.json"))
		}},
		{"null cipher under a sealed layer", "middle", []string{"middle", "segments.0.encryption"}, func() {
			sh(m.T, `chattr -i "$1" 2>/dev/null; chmod u+w "$1"`, layer("middle", "image.luks"))
			forgeHeader(m.T, layer("middle", "image.luks"), bothCopies, field("segments.0", "encryption", "cipher_null-ecb"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := m.T
			m.T = t
			defer func() { m.T = outer }()
			m.restore()
			c.attack()
			before := m.sums()
			p := m.serve("")
			p.init()
			a := p.call("Get", map[string]any{"ID": c.id})
			if a.Err == "" {
				got, _ := os.ReadFile(filepath.Join(a.Dir, "file"))
				t.Errorf("layer %s opens, and shows %q", c.id, got)
			}
			contains(t, "the answer to Get", a.Err, c.words...)
			delete(before, "/vault/driver.json") // Init writes what it was told
			after := m.sums()
			for name, sum := range before {
				if after[name] != sum {
					t.Errorf("%s was written to, or is gone", name)
				}
			}
			if c.id != "base" {
				p.reads("other", "file", "other's")
			}
			p.stop()
			m.restore()
			p = m.serve("")
			p.init()
			p.reads("container", "own", "container's own")
			p.reads("secret", "own", "the secret")
			p.reads("top", "file", "")
			p.stop()
		})
	}
}

// importMemory is the memory of the control group that a plugin imports in, page cache
// included, in bytes.
const importMemory = 128 << 20

// Layers that were made to take all memory are refused, by a plugin in a control group of
// 128 MiB without swap, which goes on and takes the next layer. The largest memory that it
// had is logged.
func TestImportMemory(t *testing.T) {
	// The control: what takes more is killed.
	control := memoryGroup(t)
	if out, err := trySh(t, `echo $$ >"$1/cgroup.procs"; head -c 200M /dev/zero | tail -c 199M | wc -c`, control); err == nil {
		t.Errorf("the control group bounds nothing: %s", out)
	}
	if oomKills(t, control) == 0 {
		t.Error("the control was not killed for its memory")
	}
	cgroup := memoryGroup(t)
	m := newMaid(t, "key=versatile", "size=1G")
	p := m.serve(cgroup)
	p.init()
	deep := strings.Repeat("d/", 2000)
	big := strings.Repeat("x", 1<<20-100)
	for n, c := range []struct {
		name  string
		word  string // of the error; "" where the layer is imported
		write func(w *tar.Writer, raw io.Writer) error
	}{
		{"deep paths", "directories without an entry of their own", func(w *tar.Writer, _ io.Writer) error {
			return headers(w, 300, func(i int) tar.Header { return tar.Header{Name: fmt.Sprintf("%d/%sf", i, deep)} })
		}},
		{"directories with large attributes", "attribute", func(w *tar.Writer, _ io.Writer) error {
			return headers(w, 300, func(i int) tar.Header {
				return tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("%d/", i), PAXRecords: map[string]string{"SCHILY.xattr.user.x": big}}
			})
		}},
		{"hole of 2^60 bytes", "sparse", func(w *tar.Writer, raw io.Writer) error {
			// GNU's sparse format 1.0: the map, of no piece, is the file's content.
			pax := ""
			for _, r := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "hole"}, {"GNU.sparse.realsize", strconv.Itoa(1 << 60)}} {
				line := " " + r[0] + "=" + r[1] + "\n"
				pax += strconv.Itoa(len(line)+2) + line
			}
			for _, part := range [][]byte{ustar('x', "x", len(pax)), pad([]byte(pax)), ustar('0', "hole", 512), pad([]byte("0\n")), make([]byte, 1024)} {
				if _, err := raw.Write(part); err != nil {
					return err
				}
			}
			return nil
		}},
		{"long names of GNU", "name", func(_ *tar.Writer, raw io.Writer) error {
			long := bytes.Repeat([]byte("x"), 1<<20-512)
			for _, part := range [][]byte{ustar('L', "", len(long)), pad(long), ustar('K', "", len(long)), pad(long), ustar('2', "f", 0)} {
				if _, err := raw.Write(part); err != nil {
					return err
				}
			}
			return nil
		}},
		{"one file of 300 MiB", "", func(w *tar.Writer, _ io.Writer) error {
			if err := w.WriteHeader(&tar.Header{Name: "f", Size: 300 << 20, Mode: 0o644}); err != nil {
				return err
			}
			piece := bytes.Repeat([]byte("not a hole "), 1<<20/11+1)[:1<<20]
			for range 300 {
				if _, err := w.Write(piece); err != nil {
					return err
				}
			}
			return nil
		}},
		{"40,000 files with attributes", "", func(w *tar.Writer, _ io.Writer) error {
			return headers(w, 40000, func(i int) tar.Header {
				return tar.Header{Name: fmt.Sprintf("usr/share/%d/%d-%s", i/2000, i, strings.Repeat("n", 100)), PAXRecords: map[string]string{"SCHILY.xattr.user.x": "value"}}
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			id := "bomb" + strconv.Itoa(n)
			p.does("Create", map[string]any{"ID": id})
			r, w := io.Pipe()
			go func() {
				tw := tar.NewWriter(w)
				err := c.write(tw, w)
				if err == nil {
					err = tw.Close()
				}
				_ = w.CloseWithError(err) // the plugin has refused it and reads on, or not
			}()
			a := p.apply(id, "", r)
			_ = r.Close()
			switch {
			case c.word == "" && a.Err != "":
				t.Errorf("refused: %s", a.Err)
			case c.word != "" && !strings.Contains(a.Err, c.word):
				t.Errorf("the answer is %q and does not say %q", a.Err, c.word)
			}
			if peak, err := os.ReadFile(filepath.Join(cgroup, "memory.peak")); err == nil {
				n, err := strconv.Atoi(strings.TrimSpace(string(peak)))
				must(t, err)
				t.Logf("most memory, page cache included: %d MiB of %d", n>>20, importMemory>>20)
			}
		})
	}
	p.t = t
	p.seal("after", "", "after all that")
	p.reads("after", "file", "after all that")
	if n := oomKills(t, cgroup); n != 0 {
		t.Errorf("the kernel killed %d processes of that group", n)
	}
	p.stop()
}

// memoryGroup makes a control group of importMemory without swap.
func memoryGroup(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/sys/fs/cgroup", "evil-")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(dir)) })
	must(t, os.WriteFile(filepath.Join(dir, "memory.max"), []byte(strconv.Itoa(importMemory)), 0))
	// A kernel without swap has no such file.
	if err := os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
	return dir
}

// oomKills counts the processes of a group that the kernel killed.
func oomKills(t *testing.T, cgroup string) int {
	t.Helper()
	events, err := os.ReadFile(filepath.Join(cgroup, "memory.events"))
	must(t, err)
	for line := range strings.Lines(string(events)) {
		if kills, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(kills))
			must(t, err)
			return n
		}
	}
	t.Fatalf("%s: no oom_kill in %q", cgroup, events)
	return 0
}

// headers writes n headers without content.
func headers(w *tar.Writer, n int, header func(i int) tar.Header) error {
	for i := range n {
		h := header(i)
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	return nil
}

// ustar is a header that package tar would not write.
func ustar(kind byte, name string, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
	copy(b[148:], "        ")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&511)...) }
