package keys_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"layervault/keys"
	"layervault/keys/versatile"
)

// vault makes a tier with a versatile slot and returns its ring, key and provider.
func vault(t *testing.T) (*keys.Ring, *keys.TierKey, keys.Provider) {
	t.Helper()
	root := t.TempDir()
	p := versatile.New(filepath.Join(root, "versatile.key"))
	ring, key, err := keys.Create(t.Context(), filepath.Join(root, "vault", keys.FileName), p, "first", nil, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	return ring, key, p
}

func passphrase(t *testing.T, key *keys.TierKey) []byte {
	t.Helper()
	p, err := key.Passphrase(1, "layer", "id", "uuid")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustOpen(t *testing.T, path string, p keys.Provider, want *keys.TierKey) {
	t.Helper()
	ring, err := keys.Load(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.Unlock(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if !bytes.Equal(passphrase(t, key), passphrase(t, want)) {
		t.Fatal("another key came back")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCreateAndReload(t *testing.T) {
	ring, key, p := vault(t)
	mustOpen(t, ring.Path(), p, key)
	if !bytes.Equal(read(t, ring.Path()), read(t, ring.Path()+".bak")) {
		t.Error("the copies differ")
	}
	if _, _, err := keys.Create(t.Context(), ring.Path(), p, "", nil, keys.Format2, nil); !errors.Is(err, keys.ErrRingExists) {
		t.Errorf("made a second ring: %v", err)
	}
}

func TestCreateRefusals(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "vault", keys.FileName)
	if _, _, err := keys.Create(t.Context(), path, nil, "", nil, keys.Format2, nil); !errors.Is(err, keys.ErrNoProvider) {
		t.Errorf("without a provider: %v", err)
	}
	p := versatile.New(filepath.Join(root, "versatile.key"))
	for _, sub := range []string{"layers/abc"} {
		dir := filepath.Join(root, "vault", sub)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := keys.Create(t.Context(), path, p, "", nil, keys.Format2, nil); !errors.Is(err, keys.ErrRingLost) {
			t.Errorf("above %s: %v", sub, err)
		}
		if err := os.Rename(dir, filepath.Join(filepath.Dir(dir), ".tmp-left")); err != nil {
			t.Fatal(err)
		}
	}
	_, key, err := keys.Create(t.Context(), path, p, "", nil, keys.Format2, nil)
	if err != nil {
		t.Fatalf("above temporaries: %v", err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Load(t.Context(), filepath.Join(root, "none.json"), nil); !errors.Is(err, keys.ErrNoRing) {
		t.Errorf("load of nothing: %v", err)
	}
}

// Whatever happens to one copy, the ring opens and both are sound afterwards; with
// both damaged nothing is touched.
func TestDamagedCopies(t *testing.T) {
	ring, key, p := vault(t)
	main, back := ring.Path(), ring.Path()+".bak"
	good := read(t, main)
	flipped := bytes.Replace(bytes.Clone(good), []byte(`"sealed": "`), []byte(`"sealed": "A`), 1)
	damages := map[string][]byte{
		"empty":        {},
		"half":         good[:len(good)/2],
		"last byte":    good[:len(good)-3],
		"zeros":        make([]byte, len(good)),
		"flipped":      flipped,
		"null":         []byte("null"),
		"version 0":    bytes.Replace(bytes.Clone(good), []byte(`"version": 2`), []byte(`"version": 0`), 1),
		"two rings":    append(bytes.Clone(good), good...),
		"two megabyte": bytes.Repeat([]byte{' '}, 2<<20),
	}
	for name, bad := range damages {
		for _, path := range []string{main, back} {
			write(t, path, bad)
			mustOpen(t, main, p, key)
			if !bytes.Equal(read(t, main), good) || !bytes.Equal(read(t, back), good) {
				t.Fatalf("%s in %s was not mended", name, filepath.Base(path))
			}
		}
		write(t, main, bad)
		write(t, back, bad)
		if _, err := keys.Load(t.Context(), main, nil); !errors.Is(err, keys.ErrDamagedRing) {
			t.Fatalf("%s twice: %v", name, err)
		}
		if _, _, err := keys.Create(t.Context(), main, p, "", nil, keys.Format2, nil); !errors.Is(err, keys.ErrDamagedRing) {
			t.Fatalf("%s twice: made a new ring: %v", name, err)
		}
		if !bytes.Equal(read(t, main), bad) || !bytes.Equal(read(t, back), bad) {
			t.Fatalf("%s twice: touched", name)
		}
		write(t, main, good)
		write(t, back, good)
	}
	for _, path := range []string{main, back} { // a missing copy comes back
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, main, p, key)
		if !bytes.Equal(read(t, path), good) {
			t.Fatalf("%s did not come back", path)
		}
	}
}

// A power cut between the two writes leaves an older backup: it follows at next load.
func TestOlderBackupFollows(t *testing.T) {
	ring, key, p := vault(t)
	old := read(t, ring.Path())
	if _, err := ring.Enroll(t.Context(), key, p, "second"); err != nil {
		t.Fatal(err)
	}
	write(t, ring.Path()+".bak", old)
	mustOpen(t, ring.Path(), p, key)
	if !bytes.Equal(read(t, ring.Path()), read(t, ring.Path()+".bak")) {
		t.Fatal("the backup still has the old slots")
	}
}

func TestNewerRingIsLeftAlone(t *testing.T) {
	ring, _, _ := vault(t)
	newer := bytes.Replace(read(t, ring.Path()), []byte(`"version": 2`), []byte(`"version": 3`), 1)
	write(t, ring.Path(), newer)
	if _, err := keys.Load(t.Context(), ring.Path(), nil); !errors.Is(err, keys.ErrNewerRing) {
		t.Fatalf("got %v", err)
	}
	if !bytes.Equal(read(t, ring.Path()), newer) {
		t.Fatal("touched")
	}
}

// A slot copied from another ring, or to another id, opens nothing.
func TestSlotsAreBound(t *testing.T) {
	root := t.TempDir()
	p := versatile.New(filepath.Join(root, "versatile.key")) // one key file for both
	var rings []*keys.Ring
	for _, tier := range []string{"a", "b"} {
		ring, key, err := keys.Create(t.Context(), filepath.Join(root, tier, keys.FileName), p, "", nil, keys.Format2, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
		rings = append(rings, ring)
	}
	a, b := rings[0], rings[1]
	bind := func(r *keys.Ring, id string) keys.Binding {
		return keys.Binding{RingID: r.ID(), SlotID: id, Provider: p.Name()}
	}
	slot := a.Slots()[0]
	if _, err := p.Unwrap(t.Context(), bind(a, slot.ID), slot.Blob); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Unwrap(t.Context(), bind(b, slot.ID), slot.Blob); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("in another ring: %v", err)
	}
	if _, err := p.Unwrap(t.Context(), bind(a, "00000000"), slot.Blob); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("in another slot: %v", err)
	}
}

func TestRemove(t *testing.T) {
	ring, key, p := vault(t)
	first := ring.Slots()[0].ID
	if err := ring.Remove(t.Context(), key, first, false); !errors.Is(err, keys.ErrLastSlot) {
		t.Fatalf("last slot: %v", err)
	}
	if err := ring.Remove(t.Context(), key, "ffffffff", true); !errors.Is(err, keys.ErrNotFound) {
		t.Fatalf("unknown slot: %v", err)
	}
	second, err := ring.Enroll(t.Context(), key, p, "second")
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Remove(t.Context(), key, first, false); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, ring.Path(), p, key)
	if err := ring.Remove(t.Context(), key, second.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring.Unlock(t.Context(), p); !errors.Is(err, keys.ErrLocked) {
		t.Fatalf("an empty ring: %v", err)
	}
	if _, _, err := keys.Create(t.Context(), ring.Path(), p, "", nil, keys.Format2, nil); !errors.Is(err, keys.ErrRingExists) {
		t.Fatalf("an empty ring was replaced: %v", err)
	}
}

func TestAnotherKeyIsNotEnrolled(t *testing.T) {
	ring, _, p := vault(t)
	_, other, _ := vault(t)
	if _, err := ring.Enroll(t.Context(), other, p, ""); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("enroll: %v", err)
	}
	if _, err := ring.Reseal(t.Context(), other, ring.Slots()[0].ID, p); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("re-seal: %v", err)
	}
}

// Writers in several processes (here: several handles) lose nothing of each other.
func TestConcurrentWriters(t *testing.T) {
	ring, key, p := vault(t)
	const writers = 8
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			own, err := keys.Load(t.Context(), ring.Path(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := own.Enroll(t.Context(), key, p, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := keys.Load(t.Context(), ring.Path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(again.Slots()); n != writers+1 {
		t.Fatalf("%d slots, want %d", n, writers+1)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(ring.Path()), ".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

// stuck is a provider whose service never answers.
type stuck struct{ keys.Provider }

func (stuck) Unwrap(ctx context.Context, _ keys.Binding, _ json.RawMessage) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestUnlockEndsWithItsContext(t *testing.T) {
	ring, _, p := vault(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := ring.Unlock(ctx, stuck{p})
	if !errors.Is(err, keys.ErrLocked) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// The reasons of all slots are in the error, in the ring's order.
func TestLockedSaysWhy(t *testing.T) {
	ring, key, p := vault(t)
	if _, err := ring.Enroll(t.Context(), key, p, "second"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(filepath.Dir(ring.Path())), "versatile.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := ring.Unlock(t.Context(), p)
	var locked *keys.LockedError
	if !errors.As(err, &locked) || len(locked.Slots) != 2 || !errors.Is(err, keys.ErrBadMode) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`"first"`, `"second"`, "0644"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if _, _, err := ring.Unlock(t.Context()); !errors.Is(err, keys.ErrUnknownProvider) {
		t.Errorf("without providers: %v", err)
	}
}
