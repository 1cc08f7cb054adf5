package versatile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/keys"
)

var (
	binding = keys.Binding{RingID: "ring", SlotID: "slot", Provider: Name}
	tierKey = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	p := New(path)
	raw, err := p.Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() != keys.KeySize {
		t.Fatalf("key file: %v, %v", info, err)
	}
	got, err := p.Unwrap(t.Context(), binding, raw)
	if err != nil || !bytes.Equal(got, tierKey) {
		t.Fatalf("got %x, %v", got, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wrap(t.Context(), binding, tierKey); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Fatal("the second slot replaced the key file")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
	if d := p.Describe(raw); !d.Software {
		t.Errorf("described as %+v", d)
	}
}

func TestBadKeyFiles(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(path string) error
		want  error
	}{
		"missing":       {os.Remove, ErrNoKeyFile},
		"group reads":   {func(p string) error { return os.Chmod(p, 0o640) }, keys.ErrBadMode},
		"others read":   {func(p string) error { return os.Chmod(p, 0o604) }, keys.ErrBadMode},
		"others write":  {func(p string) error { return os.Chmod(p, 0o602) }, keys.ErrBadMode},
		"another owner": {func(p string) error { return os.Chown(p, 4711, -1) }, keys.ErrBadMode},
		"short":         {func(p string) error { return os.Truncate(p, 31) }, ErrBadKeyFile},
		"empty":         {func(p string) error { return os.Truncate(p, 0) }, ErrBadKeyFile},
		"long":          {func(p string) error { return os.Truncate(p, 33) }, ErrBadKeyFile},
		"another key":   {func(p string) error { return os.WriteFile(p, make([]byte, 32), 0o600) }, keys.ErrWrongKey},
		"link": {func(p string) error {
			return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p))
		}, ErrBadKeyFile},
		"pipe":   {func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }, ErrBadKeyFile},
		"folder": {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, ErrBadKeyFile},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			p := New(path)
			raw, err := p.Wrap(t.Context(), binding, tierKey)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(path); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Unwrap(t.Context(), binding, raw); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if _, err := os.Lstat(path); name == "missing" && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal("unlocking made a key file")
			}
		})
	}
}
