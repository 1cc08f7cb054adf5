package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/internal/durable"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// holds checks that a directory has these files, hidden ones too, and no others.
func holds(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok {
			t.Errorf("unexpected file %s", e.Name())
		}
	}
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func hasMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	if info, err := os.Lstat(path); err != nil || info.Mode() != want {
		t.Errorf("%s: %v, %v, want mode %v", path, info, err, want)
	}
}

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func TestWriteFile(t *testing.T) {
	root := openRoot(t)
	must(t, durable.WriteFile(root, ".tmp", "file", []byte("a longer text"), 0o640))
	hasMode(t, root.Name()+"/file", 0o640)
	must(t, durable.WriteFile(root, ".tmp", "file", []byte("two"), 0o600))
	hasMode(t, root.Name()+"/file", 0o600)
	holds(t, root.Name(), map[string]string{"file": "two"})

	must(t, root.Mkdir("below", 0o700))
	must(t, durable.WriteFile(root, ".tmp", "below/file", nil, 0o600))
	holds(t, root.Name()+"/below", map[string]string{"file": ""})
	must(t, root.RemoveAll("below"))
	holds(t, root.Name(), map[string]string{"file": "two"})
}

// What a crash left under the temporary name is neither kept nor followed.
func TestWriteFileLeftover(t *testing.T) {
	root := openRoot(t)
	must(t, root.WriteFile(".tmp", []byte("a longer text than the new one"), 0o644))
	must(t, durable.WriteFile(root, ".tmp", "file", []byte("new"), 0o600))
	hasMode(t, root.Name()+"/file", 0o600)

	must(t, root.WriteFile("other", []byte("stays"), 0o600))
	must(t, root.Symlink("other", ".tmp"))
	must(t, durable.WriteFile(root, ".tmp", "file", []byte("newer"), 0o600))
	hasMode(t, root.Name()+"/file", 0o600)
	holds(t, root.Name(), map[string]string{"file": "newer", "other": "stays"})
}

// A failed write leaves what was there, and no temporary file.
func TestWriteFileFails(t *testing.T) {
	root := openRoot(t)
	must(t, root.Mkdir("dir", 0o700))
	must(t, root.WriteFile("dir/file", []byte("old"), 0o600))
	if err := durable.WriteFile(root, ".tmp", "dir", []byte("x"), 0o600); err == nil || !strings.HasPrefix(err.Error(), "write dir: ") {
		t.Errorf("a file in place of a directory: %v", err)
	}
	for tmp, name := range map[string]string{"missing/.tmp": "file", ".tmp": "missing/file"} {
		if err := durable.WriteFile(root, tmp, name, []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no such directory, %s and %s: %v", tmp, name, err)
		}
	}
	holds(t, root.Name()+"/dir", map[string]string{"file": "old"})
	must(t, root.RemoveAll("dir"))
	holds(t, root.Name(), nil)
}

// A write that fails midway leaves the old content. The limit of a file's size stands for
// a full disk.
func TestWriteFileFull(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	must(t, durable.Replace(name, ".tmp", []byte("old")))
	lift := limitFileSize(t, 4)
	err := durable.Replace(name, ".tmp", []byte("longer than the limit"))
	lift()
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("write past the limit of a file's size: %v", err)
	}
	holds(t, dir, map[string]string{"file": "old"})
}

// limitFileSize makes writes past so many bytes of a file fail with EFBIG. The limit is the
// process's own, so no test here runs in parallel.
func limitFileSize(t *testing.T, bytes uint64) (lift func()) {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	signal.Ignore(unix.SIGXFSZ)
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: old.Max}))
	return func() { must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old)) }
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	must(t, durable.Replace(name, ".tmp", []byte("one")))
	must(t, durable.Replace(name, ".tmp", []byte("two")))
	hasMode(t, name, 0o600)
	if err := durable.Replace(filepath.Join(dir, "missing/file"), ".tmp", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory: %v", err)
	}
	holds(t, dir, map[string]string{"file": "two"})
}

// A symbolic link is replaced, not written through.
func TestReplaceLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "target"), []byte("stays"), 0o600))
	must(t, os.Symlink("target", filepath.Join(dir, "file")))
	must(t, durable.Replace(filepath.Join(dir, "file"), ".tmp", []byte("new")))
	hasMode(t, filepath.Join(dir, "file"), 0o600)
	holds(t, dir, map[string]string{"file": "new", "target": "stays"})
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	must(t, durable.Create(name, []byte("one")))
	hasMode(t, name, 0o600)
	if err := durable.Create(name, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("existing file: %v", err)
	}
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	if err := durable.Create(filepath.Join(dir, "link"), []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("dangling link: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "link")))
	if err := durable.Create(filepath.Join(dir, "missing/file"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory: %v", err)
	}
	holds(t, dir, map[string]string{"file": "one"})
}

func TestTempName(t *testing.T) {
	one, two := durable.TempName("/a/file"), durable.TempName("/a/file")
	if one == two || !strings.HasPrefix(one, ".tmp-file-") || strings.Contains(one, "/") {
		t.Errorf("%s, %s", one, two)
	}
}

func TestSync(t *testing.T) {
	root := openRoot(t)
	must(t, durable.SyncDir(root, "."))
	must(t, durable.SyncPath(root.Name()))
	if err := durable.SyncDir(root, "missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory in a root: %v", err)
	}
	if err := durable.SyncPath(root.Name() + "/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory by path: %v", err)
	}
}
