package secretio_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/keys"
	"layervault/keys/secretio"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		file, want string
		err        error
	}{
		"private":       {file("a", "secret\r\n", 0o600), "secret", nil},
		"inner newline": {file("b", "a\nb\n", 0o400), "a\nb", nil},
		"others read":   {file("c", "secret", 0o640), "", keys.ErrBadMode},
		"empty":         {file("d", "\n", 0o600), "", secretio.ErrLength},
		"longest":       {file("e", strings.Repeat("x", 4096), 0o600), strings.Repeat("x", 4096), nil},
		"too long":      {file("f", strings.Repeat("x", 4097), 0o600), "", secretio.ErrLength},
		"absent":        {filepath.Join(dir, "none"), "", os.ErrNotExist},
		"stdin":         {"-", "typed", nil},
	} {
		got, err := secretio.Read(strings.NewReader("typed\n"), c.file)
		if string(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := secretio.ReadPrivatePEM(filepath.Join(dir, "c")); !errors.Is(err, keys.ErrBadMode) {
		t.Errorf("a private key that others read: %v", err)
	}
	if got, err := secretio.ReadPrivatePEM(filepath.Join(dir, "b")); string(got) != "a\nb\n" || err != nil {
		t.Errorf("a private key: %q, %v", got, err)
	}
	if _, err := secretio.ReadFile(nil, filepath.Join(dir, "e"), 4095); !errors.Is(err, secretio.ErrLength) {
		t.Errorf("a file that is too long: %v", err)
	}
	if got, err := secretio.ReadFile(strings.NewReader("in"), "-", 2); string(got) != "in" || err != nil {
		t.Errorf("standard input: %q, %v", got, err)
	}
}

func TestWrite(t *testing.T) {
	var out bytes.Buffer
	if err := secretio.Write(&out, "-", []byte("key")); err != nil || out.String() != "key" {
		t.Errorf("%q, %v", out.String(), err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := secretio.Write(nil, path, []byte("key")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := secretio.Write(nil, path, []byte("other")); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwrote a file: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "key" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

func TestAskNobody(t *testing.T) {
	if _, err := secretio.AskTwice(t.Context(), strings.NewReader("x"), &bytes.Buffer{}, "PIN"); !errors.Is(err, keys.ErrNeedsPerson) {
		t.Errorf("asked a reader: %v", err)
	}
}
