//go:build guest

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"layervault/tests/e2e/sample"
	"layervault/tests/e2e/treesum"
)

// Layers are sealed anew below a container, by the program and by the plugin, without dockerd
// (GUEST_BARE): what is asked here is what dockerd asks.

// resealed is a host whose layers have the older form, with a container on them.
type resealed struct {
	*maid
	images []string          // sealed layers, each on the one before
	trees  map[string]string // what each layer shows
	steps  []string          // of a build, in writable images
}

// olderLayers makes the layers that an earlier version made: ext4 without a hash tree, which has
// none over sectors of 512 bytes. The kernel's EROFS is hidden meanwhile.
func olderLayers(t *testing.T, images, steps int) *resealed {
	m := &resealed{maid: newMaid(t, "key=versatile", "size=64M"), trees: map[string]string{}}
	now := m.env
	m.env = append(slices.Clone(now), "sector=512")
	sh(t, `mount -t tmpfs none /sys/fs/erofs`)
	p := m.serve("")
	p.init()
	parent := ""
	for n := range images {
		id := fmt.Sprint("image", n)
		p.seal(id, parent, id)
		parent, m.images = id, append(m.images, id)
	}
	var odd bytes.Buffer
	must(t, sample.Odd(&odd))
	p.does("Create", map[string]any{"ID": "odd", "Parent": parent})
	if a := p.apply("odd", parent, &odd); a.Err != "" {
		t.Fatal(a.Err)
	}
	parent, m.images = "odd", append(m.images, "odd")
	for n := range steps {
		id := fmt.Sprint("step", n)
		p.does("Create", map[string]any{"ID": id, "Parent": parent})
		m.write(p, id, "step")
		parent, m.steps = id, append(m.steps, id)
	}
	p.container("c", parent, "")
	m.write(p, "c", "container")
	for _, id := range slices.Concat(m.images, m.steps, []string{"c"}) {
		m.trees[id] = m.tree(p, id)
	}
	p.stop()
	sh(t, `umount /sys/fs/erofs`)
	m.env = now
	return m
}

// write writes into a layer: a new file, and more of one that lies below.
func (m *resealed) write(p *plugin, id, text string) {
	m.Helper()
	dir := p.does("Get", map[string]any{"ID": id}).Dir
	must(m.T, os.WriteFile(filepath.Join(dir, id), []byte(text), 0o600))
	f, err := os.OpenFile(filepath.Join(dir, "file"), os.O_APPEND|os.O_WRONLY, 0)
	must(m.T, err)
	_, err = f.WriteString(id)
	must(m.T, errors.Join(err, f.Close()))
	p.does("Put", map[string]any{"ID": id})
}

// tree is what a layer shows.
func (m *resealed) tree(p *plugin, id string) string {
	m.Helper()
	text := treeAt(m.T, p.does("Get", map[string]any{"ID": id}).Dir)
	p.does("Put", map[string]any{"ID": id})
	return text
}

func treeAt(t *testing.T, dir string) string {
	t.Helper()
	tree, err := treesum.FromDir(dir)
	must(t, err)
	var b strings.Builder
	must(t, tree.Write(&b))
	return b.String()
}

// whole wants every layer to show what it did.
func (m *resealed) whole(p *plugin, when string) {
	m.Helper()
	for _, id := range slices.Sorted(maps.Keys(m.trees)) {
		sameTree(m.T, when+": "+id, m.tree(p, id), m.trees[id])
	}
}

// wantForm wants layers to be EROFS with a hash tree, and all of it to be readable.
func (m *resealed) wantForm(ids []string) {
	m.Helper()
	for _, id := range ids {
		im := &sealedImage{maid: m.maid, id: id, fs: "erofs", path: filepath.Join(m.persist, "vault/layers", id, "image.luks")}
		if len(im.tree()) == 0 {
			m.Errorf("%s has no hash tree", id)
		}
	}
	m.must("layer", "verify", "--all")
}

// upgradeReport is what vault upgrade --layers --json prints, once.
type upgradeReport []struct {
	Tier   string
	Layers struct {
		Layers  int `json:"sealed_layers"`
		Sealed  int `json:"sealed_anew"`
		Waiting int
		Failed  []string
	}
}

// startUpgrade starts vault upgrade --layers; end waits for it, and says what it printed.
func (m *resealed) startUpgrade() (cmd *exec.Cmd, end func() (upgradeReport, error)) {
	m.Helper()
	var out, errs bytes.Buffer
	cmd = exec.Command("env", slices.Concat(m.env, []string{"layervault", "--json", "vault", "upgrade", "--layers"})...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	must(m.T, cmd.Start())
	return cmd, func() (r upgradeReport, err error) {
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, &errs)
		}
		documents := json.NewDecoder(&out)
		if err := documents.Decode(&r); err != nil {
			return nil, err
		}
		if _, err := documents.Token(); !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("a second JSON document: %w", err)
		}
		return r, nil
	}
}

// nothingMounted wants no mount of the upgrade in the namespace of the host, whatever ended it.
func (m *resealed) nothingMounted(when string) {
	m.Helper()
	if out := sh(m.T, `grep layervault-upgrade /proc/self/mountinfo || true`); out != "" {
		m.Errorf("%s: mounts are left:\n%s", when, out)
	}
}

// killsOf is how often a test kills; KILLS in the environment says another number.
func killsOf(t *testing.T, n int) int {
	t.Helper()
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		must(t, err)
	}
	return n
}

// vault upgrade --layers seals layers anew below a container that runs: killed again and again, it
// goes on where it was. The container keeps what it sees, before and after its next start.
func TestSealLayers(t *testing.T) {
	kills := killsOf(t, 6)
	m := olderLayers(t, 5, 0)
	m.keep()
	killed, ended := 0, 0
	lasts := 4 * time.Second
	for killed < kills || ended == 0 {
		p := m.serve("")
		p.init()
		running := p.does("Get", map[string]any{"ID": "c"}).Dir
		open, err := os.Open(filepath.Join(running, "file"))
		must(t, err)
		p.stop()
		for end := false; !end; {
			cmd, wait := m.startUpgrade()
			timer := time.AfterFunc(time.Duration(rand.Int64N(int64(lasts))), func() { _ = cmd.Process.Kill() })
			if killed >= kills {
				timer.Stop()
			}
			began := time.Now()
			r, err := wait()
			timer.Stop()
			when := fmt.Sprintf("after %d kills", killed)
			m.nothingMounted(when)
			sameTree(t, when+": the running container", treeAt(t, running), m.trees["c"])
			var exit *exec.ExitError
			switch {
			case err == nil:
				end, lasts = true, max(time.Since(began), time.Second)
				if l := r[0].Layers; len(r) != 1 || l.Layers != len(m.images) || len(l.Failed) != 0 || l.Waiting == 0 && l.Sealed > 0 {
					t.Errorf("%s: %+v", when, r)
				}
			case errors.As(err, &exit) && exit.ExitCode() == -1:
				killed++
			default:
				t.Fatal(when, err)
			}
		}
		ended++
		m.wantForm(m.images)
		var b [6]byte
		if _, err := open.ReadAt(b[:], 0); err != nil || string(b[:]) != "image4" {
			t.Errorf("an open file: %q, %v", b, err)
		}
		must(t, open.Close())
		p = m.serve("") // beside the container that still runs on the old images
		p.init()
		must(t, os.WriteFile(filepath.Join(running, "late"), []byte("late"), 0o600))
		must(t, os.Remove(filepath.Join(running, "late")))
		p.does("Put", map[string]any{"ID": "c"})
		m.whole(p, "started again")
		p.stop()
		if _, err := m.vault("vault", "upgrade", "--layers"); err != nil { // erases what waited
			t.Error(err)
		}
		m.nothingStray()
		if killed < kills {
			m.restore()
		}
	}
	t.Logf("%d kills of vault upgrade --layers, %d vaults came to their end, 0 layers lost", killed, ended)
}

// nothingStray wants no replaced image to be left.
func (m *resealed) nothingStray() {
	m.Helper()
	if stray, err := filepath.Glob(filepath.Join(m.persist, "vault/layers/.tmp-*")); err != nil || len(stray) != 0 {
		m.Errorf("left: %v, %v", stray, err)
	}
}

// importsAtMost is how many layers are imported beside one plugin's sealing: each is read and removed
// afterwards.
const importsAtMost = 30

// The plugin seals older layers and the steps of builds behind requests, while layers are imported,
// and is killed again and again. What it answered for is there.
func TestSealBehindRequests(t *testing.T) {
	kills := killsOf(t, 6)
	m := olderLayers(t, 3, 2)
	sealing := append(slices.Clone(m.env), "upgrade=layers", "seal-committed=on")
	m.keep()
	killed, ended, imported := 0, 0, 0
	for killed < kills || ended == 0 {
		m.env = sealing
		done := map[string]string{} // imports that were answered for
		for end := false; !end; {
			p := m.serve("")
			p.init()
			stop := make(chan struct{})
			acked := make(chan string, 1000)
			go func() {
				defer close(acked)
				for n := range importsAtMost {
					id := fmt.Sprintf("new%d-%d", killed, n)
					if !p.importOnto(id, m.images[0]) {
						return
					}
					acked <- id
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
			if killed < kills {
				time.Sleep(time.Duration(rand.Int64N(int64(5 * time.Second))))
			} else {
				m.untilSealed(p)
			}
			end = m.sealedAll()
			if end {
				close(stop)
			} else {
				must(t, p.cmd.Process.Kill())
				_ = p.cmd.Wait()
				killed++
			}
			for id := range acked {
				done[id] = id
			}
			if end {
				p.stop()
			}
			when := fmt.Sprintf("after %d kills", killed)
			m.env = m.env[:len(m.env)-2]
			p = m.serve("")
			p.init()
			m.whole(p, when)
			for id := range done {
				p.reads(id, "file", id)
				p.does("Remove", map[string]any{"ID": id})
			}
			imported += len(done)
			clear(done)
			p.stop()
			m.env = sealing
		}
		ended++
		m.env = m.env[:len(m.env)-2]
		m.wantForm(slices.Concat(m.images, m.steps))
		if killed < kills {
			m.restore()
		}
	}
	t.Logf("%d kills of the plugin while it sealed and imported, %d imports answered for, %d vaults came to their end, 0 layers lost", killed, imported, ended)
}

// importOnto imports a layer of one file, and says whether the plugin answered that it is there.
func (p *plugin) importOnto(id, parent string) bool {
	create, err := json.Marshal(map[string]any{"ID": id, "Parent": parent})
	if err != nil {
		return false
	}
	ask := func(method string, body io.Reader) bool {
		res, err := p.client.Post("http://plugin/GraphDriver."+method, "", struct{ io.Reader }{body})
		if err != nil {
			return false
		}
		defer res.Body.Close()
		var a graphAnswer
		return json.NewDecoder(res.Body).Decode(&a) == nil && a.Err == ""
	}
	return ask("Create", bytes.NewReader(create)) && ask("ApplyDiff?id="+id+"&parent="+parent, bytes.NewReader(fileTar(id)))
}

// sealedAll says whether each image and step has its present form, by its record and the lack of
// one that names two images.
func (m *resealed) sealedAll() bool {
	out, err := trySh(m.T, `cd "$1"; shift; for id; do [ "$(jq -r .kind "$id/layer.json")" = sealed ] && [ "$(jq -r '.replaces // ""' "$id/layer.json")" = "" ] &&
		head -c 16384 "$id/image.luks" | grep -aq '"filesystem":"erofs"' || exit 1; done`,
		slices.Concat([]string{filepath.Join(m.persist, "vault/layers")}, m.images, m.steps)...)
	return err == nil && out == ""
}

func (m *resealed) untilSealed(p *plugin) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), 5*time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return m.sealedAll(), nil }); err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		m.Fatalf("layers are not all sealed: %v\n%s", err, &p.stderr)
	}
}
