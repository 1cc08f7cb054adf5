package handover

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"layervault/keys"
	"layervault/keys/versatile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tier makes a vault in a folder short enough for a unix socket's path.
func tier(t *testing.T) (string, *keys.Ring, *keys.TierKey) {
	t.Helper()
	dir, err := os.MkdirTemp("", "handover")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	folder := filepath.Join(dir, "vault")
	ring, key, err := keys.Create(t.Context(), filepath.Join(folder, keys.FileName), versatile.New(filepath.Join(dir, "key")), "", nil, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	return folder, ring, key
}

func receiver(t *testing.T, folder string) *Receiver {
	t.Helper()
	r := New(folder, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = r.Close() })
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGiveAndTake(t *testing.T) {
	folder, ring, key := tier(t)
	if err := Give(t.Context(), folder, key); !errors.Is(err, ErrNobody) {
		t.Fatalf("nobody listens: %v", err)
	}
	r := receiver(t, folder)
	if err := r.Listen(); err != nil { // again is fine
		t.Fatal(err)
	}
	if r.Take() != nil {
		t.Fatal("a key from nowhere")
	}
	info, err := os.Stat(filepath.Join(folder, Name))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := Give(t.Context(), folder, key); err != nil {
		t.Fatal(err)
	}
	if err := Give(t.Context(), folder, key); !errors.Is(err, ErrRefused) {
		t.Fatalf("a second key: %v", err)
	}
	got := r.Take()
	if got == nil || ring.Proves(got) != nil {
		t.Fatal("not the key")
	}
	defer got.Close()
	if err := Give(t.Context(), folder, key); !errors.Is(err, ErrNobody) {
		t.Fatalf("the socket stays: %v", err)
	}
	// Locked again, it waits again; a key that nobody takes is wiped.
	if err := r.Listen(); err != nil {
		t.Fatal(err)
	}
	if err := Give(t.Context(), folder, key); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, Name)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the socket stays: %v", err)
	}
}

// A key that is offered before its receiver is there; nobody's offer is nothing.
func TestOfferAndFetch(t *testing.T) {
	folder, ring, key := tier(t)
	r := New(folder, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = r.Close() })
	r.Fetch(t.Context())
	if r.Take() != nil {
		t.Fatal("a key from nowhere")
	}
	offer := func(key *keys.TierKey) chan error {
		t.Helper()
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- Offer(t.Context(), folder, key, func() { close(ready) }) }()
		<-ready
		return done
	}
	done := offer(key)
	info, err := os.Stat(filepath.Join(folder, OfferName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	r.Fetch(t.Context())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := r.Take()
	if got == nil || ring.Proves(got) != nil {
		t.Fatal("not the key")
	}
	defer got.Close()
	if _, err := os.Stat(filepath.Join(folder, OfferName)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the socket stays: %v", err)
	}

	_, _, other := tier(t)
	done = offer(other)
	r.Fetch(t.Context())
	if err := <-done; !errors.Is(err, ErrRefused) || r.Take() != nil {
		t.Fatalf("another ring's key: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	err = Offer(ctx, folder, key, cancel)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("nobody came: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, OfferName)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the socket stays: %v", err)
	}
}

func TestRefusedKeys(t *testing.T) {
	folder, _, key := tier(t)
	_, _, other := tier(t)
	r := receiver(t, folder)
	if err := Give(t.Context(), folder, other); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "wrong key") {
		t.Fatalf("another ring's key: %v", err)
	}
	for _, junk := range []string{"", "GET / HTTP/1.1\r\n\r\n" + strings.Repeat("x", 100), greeting, greeting + "short"} {
		conn, err := net.Dial("unix", filepath.Join(folder, Name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, junk); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		// A reset is an answer too: the receiver does not read what it refuses.
		if answer, _ := io.ReadAll(conn); strings.HasPrefix(string(answer), accepted) {
			t.Errorf("%q was taken", junk)
		}
		_ = conn.Close()
	}
	if r.Take() != nil {
		t.Fatal("junk is a key")
	}
	if err := Give(t.Context(), folder, key); err != nil {
		t.Fatal(err)
	}
}

// What a killed process left does not keep the next from waiting.
func TestListenOverALeftover(t *testing.T) {
	folder, _, key := tier(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, Name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Give(t.Context(), folder, key); !errors.Is(err, ErrNobody) {
		t.Fatalf("got %v", err)
	}
	receiver(t, folder)
	if err := Give(t.Context(), folder, key); err != nil {
		t.Fatal(err)
	}
}
