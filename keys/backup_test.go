package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/recovery"
)

func backup(t *testing.T, ring *keys.Ring) []byte {
	t.Helper()
	data, err := ring.Backup()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func restore(t *testing.T, data []byte, path string, force bool) error {
	t.Helper()
	ring, err := keys.ReadBackup(data, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ring.Restore(t.Context(), nil, force)
}

func TestRestore(t *testing.T) {
	ring, key, p := vault(t)
	path := ring.Path()
	data := backup(t, ring)
	if err := restore(t, data, path, false); !errors.Is(err, keys.ErrRingExists) {
		t.Fatalf("replaced a sound ring: %v", err)
	}
	// Gone, with its tier.
	elsewhere := filepath.Join(t.TempDir(), "vault", keys.FileName)
	if err := restore(t, data, elsewhere, false); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, elsewhere, p, key)
	// Damaged: kept aside.
	for _, name := range []string{path, path + ".bak"} {
		write(t, name, []byte("damaged"))
	}
	if err := restore(t, data, path, false); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path, p, key)
	if string(read(t, path+".damaged")) != "damaged" || string(read(t, path+".bak.damaged")) != "damaged" {
		t.Error("the damaged copies are lost")
	}
	if !bytes.Equal(read(t, path), read(t, path+".bak")) {
		t.Error("the copies differ")
	}
	// Older than what is there: only by force, and what was there is kept.
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, recovery.Generate()), ""); err != nil {
		t.Fatal(err)
	}
	if err := restore(t, data, path, false); !errors.Is(err, keys.ErrRingExists) {
		t.Fatalf("got %v", err)
	}
	if err := restore(t, data, path, true); err != nil {
		t.Fatal(err)
	}
	ring, err = keys.Load(t.Context(), path, nil)
	if err != nil || len(ring.Slots()) != 1 {
		t.Fatalf("%v, %v", ring.Slots(), err)
	}
	kept, err := keys.ReadBackup(read(t, path+".replaced"), path, nil)
	if err != nil || len(kept.Slots()) != 2 {
		t.Fatalf("what was replaced: %v", err)
	}
}

func TestBackupsThatAreNone(t *testing.T) {
	ring, key, p := vault(t)
	data := backup(t, ring)
	for name, bad := range map[string][]byte{
		"empty": nil, "text": []byte("x"), "cut": data[:len(data)/2], "long": make([]byte, 2<<20),
		"flipped": bytes.Replace(data, []byte(`"provider"`), []byte(`"Provider"`), 1),
	} {
		if _, err := keys.ReadBackup(bad, "ring", nil); !errors.Is(err, keys.ErrBadBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keys.ReadBackup(bytes.Replace(data, []byte(`"version": 2`), []byte(`"version": 9`), 1), "ring", nil); !errors.Is(err, keys.ErrNewerRing) {
		t.Errorf("newer: %v", err)
	}
	// Not in the middle of a rotation: that would bring the old key back.
	images, list := samples(t, key, 1)
	images[0].step = func(string) error { return os.ErrInvalid }
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list, Carry: carryAll(t, ring, p, nil)}); !errors.Is(err, keys.ErrUnfinished) {
		t.Fatal(err)
	}
	if _, err := ring.Backup(); !errors.Is(err, keys.ErrUnfinished) {
		t.Errorf("during a rotation: %v", err)
	}
	// And not across one, without being told.
	images[0].step = func(string) error { return nil }
	ring, key = reload(t, ring.Path(), p)
	if _, err := ring.Rotate(t.Context(), key, keys.Rotation{Images: list}); err != nil {
		t.Fatal(err)
	}
	if err := restore(t, data, ring.Path(), false); !errors.Is(err, keys.ErrRingExists) {
		t.Errorf("across a rotation: %v", err)
	}
}
