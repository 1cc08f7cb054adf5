package drivertest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// when is the time of every file a test makes, so that trees can be compared.
var when = time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, when, when); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(got) != want {
		t.Errorf("%s holds %.40q (%v), want %.40q", name, got, err, want)
	}
}

func wantGone(t *testing.T, dir, name string) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v)", name, err)
	}
}

// snapshot describes every file below a directory: what a container could see,
// without times of directories, which copying up alters.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	links := make(map[uint64][]string)
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d dev %x", fi.Mode(), st.Uid, st.Gid, st.Rdev)
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(name) //nolint:gosec // nobody else is in this tree
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			line += fmt.Sprintf(" %d bytes %s %s", fi.Size(), hex.EncodeToString(sum[:8]), fi.ModTime().UTC().Truncate(time.Second))
			links[st.Ino] = append(links[st.Ino], rel)
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		var value [64]byte
		if n, err := unix.Lgetxattr(name, "security.capability", value[:]); err == nil {
			line += fmt.Sprintf(" cap %x", value[:n])
		}
		out[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range links {
		slices.Sort(names)
		for _, n := range names {
			out[n] += " links " + strings.Join(names, ",")
		}
	}
	return out
}

func wantSame(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %s\n got %s\nwant %s", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s is too much: %s", what, name, got[name])
		}
	}
}

// entry is one file of a tar.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: when}, body}
}

func directory(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: when}, ""}
}

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// tarNames lists a tar's entries.
func tarNames(t *testing.T, data []byte) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

func (b *bench) diff(id, parent string) []byte {
	b.Helper()
	in, err := b.Diff(b.ctx, id, parent)
	b.ok(err)
	data, err := io.ReadAll(in)
	b.ok(err)
	b.ok(in.Close())
	return data
}

// apply makes a sealed layer.
func (b *bench) apply(id, parent string, tar []byte) int64 {
	b.Helper()
	b.create(id, parent)
	size, err := b.ApplyDiff(b.ctx, id, parent, bytes.NewReader(tar))
	b.ok(err)
	return size
}
