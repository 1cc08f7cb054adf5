package volumetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"layervault/persist"
	"layervault/volume"
)

// The model test does what docker, its users and bad luck do with five volumes, in a random
// order, and knows what each container must read at any time: no byte that a container was
// told is written is lost, nothing that is in use is removed, nothing is left at the end.

// modelSteps is the length of one sequence.
const modelSteps = 15

// modelVolumes are the volumes: the options of each.
var modelVolumes = map[string][]string{
	"image": {"size=16M"}, "clear": {"clear=true"}, "image-rev": {"size=16M", "persistence=revision"},
	"clear-rev": {"clear=true", "persistence=revision"}, "clear-boot": {"clear=true", "persistence=boot"},
}

// modelContainer is a running container: one mount under docker's id, and one of its own.
type modelContainer struct {
	volume, revision string
	inside           string
	copies           int // docker cp at work under its id
}

type model struct {
	*env
	rand       *rand.Rand
	revision   string
	exists     map[string]bool
	content    map[string]string // by the volume and its place
	containers map[string]*modelContainer
	forgotten  map[string]bool // by volume: docker died before it unmounted
	ids, words int
	log        []string
}

func testModel(e *env, sequences int) {
	for seed := range sequences {
		m := &model{
			env: e, rand: rand.New(rand.NewPCG(uint64(seed), 1)), revision: "r0", exists: map[string]bool{}, content: map[string]string{}, //nolint:gosec // a sequence that can be repeated
			containers: map[string]*modelContainer{}, forgotten: map[string]bool{},
		}
		e.must(e.store.SetRevision(e.Context(), m.revision))
		for range modelSteps {
			m.step()
			m.check()
			if e.Failed() {
				e.Fatalf("sequence %d:\n%s", seed, strings.Join(m.log, "\n"))
			}
		}
		m.end()
		if e.Failed() {
			e.Fatalf("sequence %d:\n%s", seed, strings.Join(m.log, "\n"))
		}
	}
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) step() {
	m.Helper()
	name := Choose(m.rand, modelVolumes, every)
	id := Choose(m.rand, m.containers, every)
	switch n := m.rand.IntN(100); {
	case n < 30:
		m.run(name)
	case n < 45 && id != "":
		m.stop(id)
	case n < 60 && id != "":
		m.copyBegins(id)
	case n < 70 && id != "":
		m.copyEnds(id)
	case n < 76 && id != "":
		m.vanish(id)
	case n < 84:
		m.say("the plugin is killed")
		m.open()
		m.must(m.store.Heal(m.Context()))
	case n < 90:
		m.revision = fmt.Sprint("r", m.rand.IntN(3))
		m.say("revision %s", m.revision)
		m.must(m.store.SetRevision(m.Context(), m.revision))
	case n < 95:
		m.remove(name)
	default:
		m.purge(name)
	}
}

// run starts a container that writes a word.
func (m *model) run(name string) {
	m.Helper()
	m.ids++
	id := fmt.Sprint("c", m.ids)
	m.say("run %s with %s", id, name)
	m.create(name, modelVolumes[name]...)
	m.exists[name] = true
	c := &modelContainer{volume: name, revision: m.revision}
	dir := m.mount(name, id)
	m.reads(dir, m.content[Place(name, m.revision)])
	c.inside = filepath.Join(m.TempDir(), "inside")
	m.must(os.Mkdir(c.inside, 0o700))
	m.must(unix.Mount(dir, c.inside, "", unix.MS_BIND, ""))
	m.containers[id] = c
	m.writeWord(c)
}

func (m *model) writeWord(c *modelContainer) {
	m.Helper()
	m.words++
	text := fmt.Sprint("word ", m.words)
	m.write(c.inside, text)
	m.content[Place(c.volume, c.revision)] = text
}

func (m *model) stop(id string) {
	m.Helper()
	c := m.containers[id]
	for ; c.copies > 0; c.copies-- { // docker waits for them
		m.unmount(c.volume, id)
	}
	m.say("stop %s", id)
	m.must(unix.Unmount(c.inside, 0))
	m.unmount(c.volume, id)
	delete(m.containers, id)
}

// copyBegins is docker cp: what it sees is what the container sees.
func (m *model) copyBegins(id string) {
	m.Helper()
	c := m.containers[id]
	m.say("copy from %s", id)
	m.reads(m.mount(c.volume, id), m.content[Place(c.volume, c.revision)])
	c.copies++
}

func (m *model) copyEnds(id string) {
	m.Helper()
	c := m.containers[id]
	if c.copies == 0 {
		m.writeWord(c)
		return
	}
	m.say("copied from %s", id)
	c.copies--
	m.unmount(c.volume, id)
}

// vanish is the end of a container that docker does not live to tell of.
func (m *model) vanish(id string) {
	m.Helper()
	m.say("%s vanishes", id)
	c := m.containers[id]
	m.must(unix.Unmount(c.inside, 0))
	m.forgotten[c.volume] = true
	delete(m.containers, id)
}

// used says whether a container has a volume.
func (m *model) used(name string) bool {
	for _, c := range m.containers {
		if c.volume == name {
			return true
		}
	}
	return false
}

// gone wants an operation that ends a volume's content to fail exactly while it is used.
func (m *model) gone(what, name string, err error) bool {
	m.Helper()
	m.say("%s %s: %v", what, name, err)
	switch {
	case !m.exists[name]:
		if !errors.Is(err, volume.ErrNotFound) {
			m.Errorf("%s of what is not there: %v", what, err)
		}
		return false
	case m.used(name):
		if !errors.Is(err, volume.ErrInUse) {
			m.Errorf("%s of %s, which is in use: %v", what, name, err)
		}
		return false
	case err != nil:
		m.Errorf("%s of %s: %v", what, name, err)
		return false
	}
	for place := range m.content {
		if place == name || strings.HasPrefix(place, name+"@") {
			delete(m.content, place)
		}
	}
	delete(m.forgotten, name)
	return true
}

func (m *model) remove(name string) {
	m.Helper()
	if m.gone("remove", name, m.store.Remove(m.Context(), name)) {
		delete(m.exists, name)
	}
}

func (m *model) purge(name string) {
	m.Helper()
	_, err := m.store.Purge(m.Context(), name, volume.Options{})
	m.gone("purge", name, err)
}

// check wants every container to read what was last written to its volume.
func (m *model) check() {
	m.Helper()
	for id, c := range m.containers {
		want := m.content[Place(c.volume, c.revision)]
		got, err := os.ReadFile(filepath.Join(c.inside, "file"))
		if err != nil || string(got) != want {
			m.Errorf("%s reads %q from %s (%v), want %q", id, got, c.volume, err, want)
		}
	}
	if id := Choose(m.rand, m.containers, every); id != "" {
		name := m.containers[id].volume
		if st, err := m.store.Inspect(m.Context(), name); err != nil || st.State != volume.StateMounted {
			m.Errorf("%s is %s while %s has it (%v, %v)", name, st.State, id, st.Reason, err)
		}
	}
}

// end stops and removes everything.
func (m *model) end() {
	m.Helper()
	for id := range m.containers {
		m.stop(id)
	}
	m.say("the end")
	m.open()
	m.must(m.store.Heal(m.Context()))
	for name := range m.exists {
		m.must(m.store.Remove(m.Context(), name))
	}
	m.empty(m.cfg.Mounts)
	m.empty(m.cfg.Scratch)
	m.empty(filepath.Join(m.cfg.Layout.VolumeState(), "mounts"))
	for _, tier := range []persist.Tier{persist.Vault, persist.Clear} {
		m.empty(m.cfg.Layout.Volumes(tier))
	}
	m.noLoops()
}

// noLoops waits until the kernel has taken down, after the last user went, the loop devices
// below the store's folder.
func (e *env) noLoops() {
	e.Helper()
	for end := time.Now().Add(loopPatience); ; time.Sleep(loopPause) {
		left := loopsBelow(e, e.cfg.Layout.Root)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			e.Errorf("left: %v", left)
			return
		}
	}
}

const (
	loopPatience = 30 * time.Second
	loopPause    = 10 * time.Millisecond
)

// loopsBelow lists the loop devices of files below a folder, also of those that were removed.
func loopsBelow(e *env, dir string) (left []string) {
	e.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	e.must(err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.HasPrefix(string(text), dir+"/") {
			left = append(left, filepath.Base(filepath.Dir(filepath.Dir(f)))+" of "+strings.TrimSpace(string(text)))
		}
	}
	return left
}
