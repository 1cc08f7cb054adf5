package stack_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/layer"
	"layervault/stack"
)

// buildkitKnows says whether BuildKit knows a mount option; with any other one it compares whole
// trees.
func buildkitKnows(option string) bool {
	return option == "index=off" || option == "userxattr" || slices.ContainsFunc(
		[]string{"lowerdir=", "upperdir=", "workdir=", "redirect_dir="},
		func(known string) bool { return strings.HasPrefix(option, known) })
}

// attachedAt names n directories.
func attachedAt(dir string, n int) (dirs []string) {
	for i := range n {
		dirs = append(dirs, fmt.Sprintf("%s/%x", dir, i))
	}
	return dirs
}

func TestSpecOptions(t *testing.T) {
	for _, c := range []struct {
		name     string
		attached []string
		base     string
		writable bool
		kind     string
		source   string
		options  []string // the first ones
	}{
		{"one layer", []string{"/s/1"}, "", false, "bind", "/s/1/diff", []string{"ro", "rbind"}},
		{"one writable layer", []string{"/s/1"}, "", true, "bind", "/s/1/diff", []string{"rw", "rbind"}},
		{"several", []string{"/s/2", "/s/1"}, "", false, "overlay", "overlay", []string{"lowerdir=/s/2/diff:/s/1/diff"}},
		{"several, writable", []string{"/s/3", "/s/2", "/s/1"}, "", true, "overlay", "overlay",
			[]string{"lowerdir=/s/2/diff:/s/1/diff", "upperdir=/s/3/diff", "workdir=/s/3/work"}},
		{"one on a directory", []string{"/s/1"}, "/s/empty", true, "overlay", "overlay", []string{"lowerdir=/s/empty", "upperdir=/s/1/diff", "workdir=/s/1/work"}},
		{"many", attachedAt("/run/layervault/of/some/length", 400), "", true, "overlay", "overlay", nil},
	} {
		m, err := stack.Spec(c.attached, c.base, c.writable)
		if err != nil || m.Type != c.kind || m.Source != c.source || len(m.Options) < len(c.options) || !slices.Equal(m.Options[:len(c.options)], c.options) {
			t.Errorf("%s: %+v, %v", c.name, m, err)
		}
		for _, option := range m.Options {
			if m.Type == "overlay" && !buildkitKnows(option) {
				t.Errorf("%s: BuildKit does not know %s", c.name, option)
			}
		}
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, dir := range []string{"/a:b", "/a,b", `/a\b`} {
		if _, err := stack.Spec([]string{dir, "/c"}, "", true); !errors.Is(err, stack.ErrPath) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := stack.Spec(nil, "", false); !errors.Is(err, stack.ErrNoContent) {
		t.Errorf("no layers: %v", err)
	}
	for name, attached := range map[string][]string{
		"many layers": attachedAt("/s", 2000),
		// Nothing in common that could be left out.
		"far apart": append(attachedAt("/a/"+strings.Repeat("x", 100), 20), attachedAt("/b/"+strings.Repeat("x", 100), 20)...),
	} {
		if _, err := stack.Spec(attached, "", false); !errors.Is(err, layer.ErrTooDeep) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Another process makes the described mount: it shows what Mount shows, and outlives the
// attached images.
func TestAttach(t *testing.T) {
	b := newBench(t)
	b.create("alone", "", true)
	dir := t.TempDir()
	for _, id := range []string{"base", "image", "top", "alone"} {
		b.ok(os.Mkdir(filepath.Join(dir, id), 0o700))
	}
	for id, chain := range map[string][]string{"base": {"base"}, "image": {"image", "base"}, "top": {"top", "image", "base"}, "alone": {"alone"}} {
		var attached []string
		for _, id := range chain {
			at := filepath.Join(dir, id)
			b.ok(b.Attach(b.ctx, b.record(id), at))
			attached = append(attached, at)
		}
		b.nothingOpen()
		writable := id == "top" || id == "alone"
		m, err := stack.Spec(attached, "", writable)
		b.ok(err)
		flags, data := uintptr(0), strings.Join(m.Options, ",")
		if m.Type == "bind" {
			flags, data = unix.MS_BIND, ""
		}
		shown := t.TempDir()
		b.ok(unix.Mount(m.Source, shown, m.Type, flags, data))
		for _, at := range attached {
			b.ok(unix.Unmount(at, unix.MNT_DETACH))
		}
		seen := b.names(shown)
		if err := unix.Access(shown, unix.W_OK); (err == nil) != writable {
			t.Errorf("%s: write: %v", id, err)
		}
		b.ok(unix.Unmount(shown, 0))
		b.with(id, func(dir string) {
			if want := b.names(dir); seen != want {
				t.Errorf("%s: the description shows %s, Mount %s", id, seen, want)
			}
		})
	}
}
