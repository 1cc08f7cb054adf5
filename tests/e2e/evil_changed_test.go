//go:build guest

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// exits runs layervault, which must end with a status.
func (m *maid) exits(want int, args ...string) string {
	m.Helper()
	out, err := m.vault(args...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		must(m.T, err)
	}
	if got != want {
		m.Errorf("layervault %s: status %d, want %d:\n%s", strings.Join(args, " "), got, want, out)
	}
	return out
}

// line is the line of a list that begins with a name.
func line(list, name string) string {
	for l := range strings.Lines(list) {
		if fields := strings.Fields(l); len(fields) > 1 && fields[0] == name {
			return l
		}
	}
	return ""
}

// One bit of a sealed layer is changed: layer verify names the block, whether containers run on the
// layer or not, and the other layers are verified all the same. Reading the block is an I/O error,
// and from then on status, the driver's status and, once, the log name the layer.
func TestEvilMaidChangedBlock(t *testing.T) {
	m := newMaid(t, "key=versatile", "size=64M")
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{14}).Read(noise)
	p := m.serve("")
	p.init()
	p.seal("base", "", string(noise))
	p.seal("other", "base", "other's")
	p.container("c", "base", "")
	p.stop()

	const file = "vault/layers/base/image.luks"
	info, err := os.Stat(filepath.Join(m.persist, file))
	must(t, err)
	at := info.Size() / 2 // in the noise
	flip := func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(m.persist, file), os.O_RDWR, 0)
		must(t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], at)
		must(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b[:], at)
		must(t, errors.Join(err, f.Sync(), f.Close()))
	}
	block := fmt.Sprintf("data block %d", (at-1<<20)/4096)
	verify := func(when string) {
		t.Helper()
		out := m.exits(6, "layer", "verify", "--all")
		contains(t, when, line(out, "base"), "damaged", block, "pull it again")
		contains(t, when, line(out, "other"), " ok ")
		if line(out, "c") != "" {
			t.Errorf("%s: a container's layer was verified:\n%s", when, out)
		}
	}
	out := m.exits(0, "layer", "verify", "--all")
	contains(t, "untouched", line(out, "base"), " ok ")
	contains(t, "untouched", line(out, "other"), " ok ")
	flip()
	verify("closed")
	contains(t, "the other layer alone", m.exits(0, "layer", "verify", "other"), " ok ")
	contains(t, "layer and ID", m.exits(1, "layer", "verify", "c"), "only sealed layers")
	var rows []struct {
		Layer, State string
		BadBlocks    []struct{ Block int64 } `json:"bad_blocks"`
	}
	must(t, json.Unmarshal([]byte(strings.SplitAfter(m.exits(6, "layer", "verify", "--json", "ba"), "\n]")[0]), &rows))
	if len(rows) != 1 || rows[0].State != "damaged" || len(rows[0].BadBlocks) != 1 || rows[0].BadBlocks[0].Block != (at-1<<20)/4096 {
		t.Errorf("%+v", rows)
	}

	p = m.serve("")
	p.init()
	dir := p.does("Get", map[string]any{"ID": "c"}).Dir
	verify("in use")
	if got := m.exits(0, "status"); line(got, "Changed:") != "" {
		t.Errorf("before anybody read it: %s", got)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "file")); !errors.Is(err, unix.EIO) {
		t.Errorf("reading the changed block: %v", err)
	}
	contains(t, "status", m.exits(6, "status"), "Changed:       base: ", "pull it again")
	for range 2 {
		if rows := fmt.Sprint(p.does("Status", map[string]any{}).Status); !strings.Contains(rows, "Changed Layers base (") {
			t.Errorf("the driver's status: %s", rows)
		}
	}
	p.does("Put", map[string]any{"ID": "c"})
	p.stop()
	if n := strings.Count(p.stderr.String(), "a sealed layer was changed on the disk"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, p.stderr.String())
	}
	contains(t, "the log", p.stderr.String(), "layer=base", "pull it again")
	flip()
	m.exits(0, "layer", "verify", "--all")
}
