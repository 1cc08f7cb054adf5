//go:build guest

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"layervault/volume/volumetest"
)

// The model test does through dockerd what its users and bad luck do with five volumes, in a
// random order, and knows what each container must read at any time: no byte that a container
// was told is written is lost, nothing that is in use is removed or purged, nothing is left at
// the end. volume/volumetest has the same on the store itself, which is faster and knows less.
//
//	E2E_SEQUENCES   how many sequences; a few unless said
//	E2E_SEED        of the first one; each next has the next number, which its log names

const (
	modelSequences = 3
	modelSteps     = 15
	// modelContainers bounds how many there are at once.
	modelContainers = 4
	modelFirstSeed  = 1
)

// modelVolumes are the volumes: the options of each. Those of revisions show each revision of
// the host its own content.
var modelVolumes = map[string][]string{
	"m-image": {"size=24M"}, "m-clear": {"clear=true"}, "m-image-rev": {"size=24M", "persistence=revision"},
	"m-clear-rev": {"clear=true", "persistence=revision"}, "m-image-boot": {"size=24M", "persistence=boot", "inodes=2048"},
}

// modelContainer is a container that docker knows.
type modelContainer struct {
	volume   string
	revision string // that it saw at its start; "" while it is stopped
	pid      int
}

func (c *modelContainer) running() bool { return c.pid != 0 }

// file is a file in its volume, as its process sees it.
func (c *modelContainer) file(name string) string {
	return filepath.Join("/proc", strconv.Itoa(c.pid), "root/v", name)
}

type model struct {
	*testing.T
	rand       *rand.Rand
	revision   string
	exists     map[string]bool
	content    map[string]string // by the volume and its place
	containers map[string]*modelContainer
	words      int
	log        []string
}

func TestModel(t *testing.T) {
	if !encrypted() {
		return // other drivers have no volumes of ours
	}
	first, count := number(t, "E2E_SEED", modelFirstSeed), number(t, "E2E_SEQUENCES", modelSequences)
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := &model{
				T: t, rand: rand.New(rand.NewPCG(uint64(seed), 2)), exists: map[string]bool{}, content: map[string]string{},
				containers: map[string]*modelContainer{},
			}
			t.Cleanup(m.abandon)
			m.setRevision("r0")
			for step := 0; step < modelSteps && !t.Failed(); step++ {
				m.step()
				m.check()
			}
			m.end()
		})
	}
}

func number(t *testing.T, variable string, standard int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// abandon says what a sequence did that failed, and removes what it left.
func (m *model) abandon() {
	if !m.Failed() {
		return
	}
	m.Logf("the sequence:\n%s", strings.Join(m.log, "\n"))
	for name := range m.containers {
		_, _ = run(context.Background(), "docker", "rm", "-f", name)
	}
	for name := range modelVolumes {
		_, _ = run(context.Background(), "docker", "volume", "rm", "-f", name)
	}
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) step() {
	m.Helper()
	volume := volumetest.Choose(m.rand, modelVolumes, func([]string) bool { return true })
	known := volumetest.Choose(m.rand, m.containers, func(*modelContainer) bool { return true })
	running := volumetest.Choose(m.rand, m.containers, (*modelContainer).running)
	stopped := volumetest.Choose(m.rand, m.containers, func(c *modelContainer) bool { return !c.running() })
	switch n := m.rand.IntN(100); {
	case n < 24 && len(m.containers) < modelContainers:
		m.run(volume)
	case n < 34 && running != "":
		m.write(running)
	case n < 42 && running != "":
		m.stop(running)
	case n < 48 && stopped != "":
		m.start(stopped)
	case n < 54 && known != "":
		m.removeContainer(known)
	case n < 64 && known != "":
		m.copyOut(known, nil)
	case n < 70 && known != "":
		m.copyIn(known)
	case n < 78 && known != "":
		m.duringCopy(known)
	case n < 82:
		m.kill()
	case n < 88:
		m.setRevision(fmt.Sprint("r", m.rand.IntN(3)))
	case n < 94:
		m.removeVolume(volume)
	default:
		m.purge(volume)
	}
}

// reads wants a running container to read what was last written to its volume.
func (m *model) reads(name string) {
	m.Helper()
	c := m.containers[name]
	want, there := m.content[volumetest.Place(c.volume, c.revision)]
	got, err := os.ReadFile(c.file("file"))
	if string(got) != want || (err == nil) != there {
		m.Errorf("%s reads %s from %s (%v), want %s", name, brief(string(got)), c.volume, err, brief(want))
	}
}

// check looks at every running container, and at what layervault says of one's volume.
func (m *model) check() {
	m.Helper()
	for name, c := range m.containers {
		if c.running() {
			m.reads(name)
		}
	}
	if name := volumetest.Choose(m.rand, m.containers, (*modelContainer).running); name != "" {
		if row := showVolume(m.T, m.containers[name].volume); row.State != "mounted" {
			m.Errorf("%s is %s while %s has it", row.Name, row.State, name)
		}
	}
}

// end reads every volume once more, removes all, and looks for what is left.
func (m *model) end() {
	m.Helper()
	for name := range m.containers {
		m.removeContainer(name)
	}
	for volume := range m.exists {
		want := m.content[volumetest.Place(volume, m.revision)]
		if got := inVolume(m.T, volume, "cat /v/file 2>/dev/null || true"); got != strings.TrimRight(want, "\n") {
			m.Errorf("at the end %s holds %s, want %s", volume, brief(got), brief(want))
		}
		docker(m.T, "volume", "rm", volume)
	}
	if left := sh(m.T, `layervault volume list --json`); strings.Contains(left, `"m-`) {
		m.Errorf("volumes are left: %s", left)
	}
	ctx, cancel := context.WithTimeout(m.Context(), time.Minute)
	defer cancel()
	var left string
	if err := poll(ctx, func() (bool, error) {
		left = sh(m.T, `losetup -nl -O BACK-FILE | grep '/volumes/' || true`)
		return left == "", nil
	}); err != nil {
		m.Errorf("loop devices are left: %s", left)
	}
	if left := sh(m.T, `ls -A /persist/volumes/mounts`); left != "" {
		m.Errorf("mounts are remembered: %s", left)
	}
	noLeaks(m.T)
}
