package tpm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"layervault/keys/tpm/swtpmtest"
)

// bus is what a probe between the processor and the TPM records.
type bus struct {
	mu   sync.Mutex
	seen []byte
}

func (b *bus) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, p...)
	return len(p), nil
}

func (b *bus) recorded() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.seen)
}

// tap gives a socket that leads to the TPM's through b.
func (b *bus) tap(t *testing.T, chip *swtpmtest.TPM) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(chip.Socket), "tap")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var links sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		links.Wait()
	})
	links.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", chip.Socket)
			if err != nil {
				_ = from.Close()
				t.Error(err)
				return
			}
			pass := func(dst, src net.Conn) {
				_, err := io.Copy(io.MultiWriter(dst, b), src)
				if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
					t.Log(err) // one side was faster to close
				}
				_, _ = dst.Close(), src.Close()
			}
			links.Go(func() { pass(to, from) })
			links.Go(func() { pass(from, to) })
		}
	})
	return path
}

// Neither the sealed key nor the PIN's derivative nor the tier key is ever on the bus:
// sessions are salted and encrypt their parameters. The public parts are, which shows
// that the probe sees what passes.
func TestNoSecretOnTheBus(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	for name, cfg := range map[string]Config{
		"PCRs": {PCRs: mustPCRs(t, DefaultPCRs)},
		"PIN":  {PCRs: mustPCRs(t, "7"), NewPIN: pin("correct horse"), PIN: pin("correct horse")},
		"none": {},
	} {
		t.Run(name, func(t *testing.T) {
			var probe bus
			cfg.Path = probe.tap(t, chip)
			raw := wrap(t, cfg)
			expectOpen(t, cfg, raw)

			b, err := parseBlob(raw)
			if err != nil {
				t.Fatal(err)
			}
			var auth []byte
			if b.PIN != nil {
				if auth, err = b.PIN.authValue(context.Background(), cfg.PIN, nil); err != nil {
					t.Fatal(err)
				}
			}
			d, err := open(t.Context(), chip.Socket) // past the probe
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			srk, err := d.findRoot(b.SRK, 0, false)
			if err != nil {
				t.Fatal(err)
			}
			defer d.releaseRoot(srk)
			kek, err := d.unseal(srk, b, nil, auth)
			if err != nil {
				t.Fatal(err)
			}
			kek = bytes.Clone(kek) // Close wipes it
			seen := probe.recorded()
			if !bytes.Contains(seen, b.Public) {
				t.Fatal("the probe sees nothing")
			}
			for what, secret := range map[string][]byte{"sealed key": kek, "half of the sealed key": kek[:16], "tier key": tierKey, "PIN": []byte("correct horse"), "PIN's derivative": auth} {
				if len(secret) > 0 && bytes.Contains(seen, secret) {
					t.Errorf("the %s is on the bus", what)
				}
			}
		})
	}
}
