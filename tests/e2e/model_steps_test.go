//go:build guest

package e2e

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"layervault/volume/volumetest"
)

// What the model test does, and what it knows of it; model_test.go chooses.

// run starts a container; docker makes its volume, where there is none.
func (m *model) run(volume string) {
	m.Helper()
	m.words++
	name := fmt.Sprint("m-", m.words)
	m.say("run %s with %s in %s", name, volume, m.revision)
	args := []string{"volume", "create", "-d", "layervault"}
	for _, o := range modelVolumes[volume] {
		args = append(args, "-o", o)
	}
	docker(m.T, append(args, volume)...)
	m.exists[volume] = true
	m.containers[name] = &modelContainer{volume: volume}
	docker(m.T, "run", "-d", "--name", name, "--network", "none", "-v", volume+":/v", "busybox", "sleep", "36000")
	m.started(name)
	m.write(name)
}

// started looks at a container that was started just now.
func (m *model) started(name string) {
	m.Helper()
	c := m.containers[name]
	c.revision = m.revision
	pid, err := strconv.Atoi(docker(m.T, "inspect", "--format", "{{.State.Pid}}", name))
	must(m.T, err)
	c.pid = pid
	m.reads(name)
}

func (m *model) start(name string) {
	m.Helper()
	m.say("start %s in %s", name, m.revision)
	docker(m.T, "start", name)
	m.started(name)
}

func (m *model) stop(name string) {
	m.Helper()
	m.say("stop %s", name)
	docker(m.T, "stop", "-t", "0", name)
	c := m.containers[name]
	c.pid, c.revision = 0, ""
}

func (m *model) removeContainer(name string) {
	m.Helper()
	m.say("rm -f %s", name)
	docker(m.T, "rm", "-f", name)
	delete(m.containers, name)
}

// word is a new content for a volume, long enough for docker cp not to have it all under way
// when nobody reads.
func (m *model) word() string {
	m.words++
	return fmt.Sprintf("word %d %s", m.words, strings.Repeat("long ", modelLong/5))
}

// modelLong is more than pipes and sockets between dockerd and a client hold.
const modelLong = 6 << 20

// brief is a content as a message shows it.
func brief(text string) string {
	if len(text) > 20 {
		return fmt.Sprintf("%.20q (%d bytes)", text, len(text))
	}
	return strconv.Quote(text)
}

// write has a container write, and be told that it is written.
func (m *model) write(name string) {
	m.Helper()
	c, text := m.containers[name], m.word()
	m.say("%s writes %.8q", name, text)
	f, err := os.Create(c.file("file"))
	must(m.T, err)
	_, err = f.WriteString(text)
	must(m.T, errors.Join(err, f.Sync(), f.Close()))
	m.content[volumetest.Place(c.volume, c.revision)] = text
}

// shown is the place that docker cp shows of a container: what it sees, or would see if it
// were started now.
func (m *model) shown(c *modelContainer) string {
	if c.running() {
		return volumetest.Place(c.volume, c.revision)
	}
	return volumetest.Place(c.volume, m.revision)
}

// copyOut is docker cp from a container; while, when set, is done when it is half way.
func (m *model) copyOut(name string, while func()) {
	m.Helper()
	m.say("cp from %s", name)
	want := m.content[m.shown(m.containers[name])]
	ctx, cancel := context.WithTimeout(m.Context(), callTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", "cp", name+":/v", "-")
	out, err := cmd.StdoutPipe()
	must(m.T, err)
	must(m.T, cmd.Start())
	got, there, err := firstOf(out, while, "v/file")
	if err := errors.Join(err, cmd.Wait()); err != nil {
		m.Errorf("docker cp %s:/v: %v", name, err)
	}
	if got != want || there != (want != "") {
		m.Errorf("docker cp from %s gives %s, want %s", name, brief(got), brief(want))
	}
}

// copyIn is docker cp into a container.
func (m *model) copyIn(name string) {
	m.Helper()
	c, text := m.containers[name], m.word()
	m.say("cp into %s: %.8q", name, text)
	file := filepath.Join(m.TempDir(), "file")
	must(m.T, os.WriteFile(file, []byte(text), 0o600))
	docker(m.T, "cp", file, name+":/v/file")
	m.content[m.shown(c)] = text
}

// duringCopy does something else while docker cp is half way: the volume is in use then, also
// where its container is stopped.
func (m *model) duringCopy(name string) {
	m.Helper()
	c := m.containers[name]
	volume := c.volume
	if m.content[m.shown(c)] == "" {
		m.copyOut(name, nil) // over at once
		return
	}
	m.copyOut(name, func() {
		switch m.rand.IntN(3) {
		case 0:
			m.kill()
		case 1:
			m.refused("purge", volume)
		default:
			m.refused("remove", volume)
		}
	})
}

// kill kills the plugin; dockerd gives one up for good that it never gets to see (see live).
func (m *model) kill() {
	m.Helper()
	m.say("the plugin is killed")
	live(m.T, firstLook)
	must(m.T, killPlugin(m.Context()))
}

func (m *model) setRevision(name string) {
	m.Helper()
	m.say("revision %s", name)
	m.revision = name
	sh(m.T, `layervault revision set "$1"`, name)
}

// used says whether a container that runs, or one that docker knows, has a volume.
func (m *model) used(volume string) (running, known bool) {
	for _, c := range m.containers {
		if c.volume == volume {
			known, running = true, running || c.running()
		}
	}
	return running, known
}

// refused wants layervault not to touch a volume in use.
func (m *model) refused(verb, volume string) {
	m.Helper()
	m.say("%s %s, in use", verb, volume)
	out, err := trySh(m.T, `layervault volume "$1" "$2"`, verb, volume)
	if err == nil {
		m.Errorf("%s of %s, which is in use, worked: %s", verb, volume, out)
		return
	}
	contains(m.T, verb+" of a volume in use", out, "in use")
}

// removeVolume removes a volume as docker does, or without docker.
func (m *model) removeVolume(volume string) {
	m.Helper()
	running, known := m.used(volume)
	if running && m.rand.IntN(2) == 0 {
		m.refused("remove", volume)
		return
	}
	out, err := tryDocker(m.T, "volume", "rm", volume)
	m.say("volume rm %s: %v", volume, err)
	switch {
	case known && err == nil:
		m.Errorf("docker removed %s, which a container has", volume)
	case known:
		contains(m.T, "docker volume rm of a volume that a container has", out, "in use")
	case !m.exists[volume] && err == nil:
		m.Errorf("docker removed %s, which is not there", volume)
	case m.exists[volume] && err != nil:
		m.Errorf("docker volume rm %s: %v\n%s", volume, err, out)
	case err == nil:
		delete(m.exists, volume)
		m.forget(volume)
	}
}

// purge begins a volume anew, unless a container runs with it.
func (m *model) purge(volume string) {
	m.Helper()
	if running, _ := m.used(volume); running {
		m.refused("purge", volume)
		return
	}
	out, err := trySh(m.T, `layervault volume purge "$1"`, volume)
	m.say("purge %s: %v", volume, err)
	if (err == nil) != m.exists[volume] {
		m.Errorf("purge of %s, there: %t: %v\n%s", volume, m.exists[volume], err, out)
	}
	m.forget(volume)
}

// forget says that a volume has no content any more.
func (m *model) forget(volume string) {
	for place := range m.content {
		if place == volume || strings.HasPrefix(place, volume+"@") {
			delete(m.content, place)
		}
	}
}

// firstOf reads a tar to its end and gives the content of one file, and whether it is there;
// while, when set, is done once the tar has begun.
func firstOf(r io.Reader, while func(), name string) (content string, there bool, err error) {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return content, there, nil
		}
		if err != nil {
			_, _ = io.Copy(io.Discard, r) // or docker would not end
			return content, there, err
		}
		if while != nil {
			while()
			while = nil
		}
		if h.Name != name {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return "", true, err
		}
		content, there = string(data), true
	}
}
