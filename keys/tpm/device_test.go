package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
	"layervault/keys/tpm/swtpmtest"
)

// tap records what crosses the bus.
type tap struct {
	io.ReadWriteCloser
	seen bytes.Buffer
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.seen.Write(p[:n])
	return n, err
}

func (t *tap) Write(p []byte) (int, error) {
	t.seen.Write(p)
	return t.ReadWriteCloser.Write(p)
}

// Neither the sealed key nor the PIN's auth value crosses the bus in the clear, with
// and without PCRs and PIN.
func TestNothingInTheClearOnTheBus(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	for name, cfg := range map[string]Config{
		"PCRs":         {PCRs: mustPCRs(t, "7")},
		"none":         {},
		"PCRs and PIN": {PCRs: mustPCRs(t, "7"), NewPIN: pin("123456789012")},
		"PIN":          {NewPIN: pin("123456789012")},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := open(t.Context(), chip.Socket)
			if err != nil {
				t.Fatal(err)
			}
			bus := &tap{ReadWriteCloser: d.link}
			d.link = bus
			defer d.Close()
			kek := []byte("this is the key that is looked at")[:keys.KeySize]
			b, err := New(cfg).seal(t.Context(), d, kek) // seals and unseals
			if err != nil {
				t.Fatal(err)
			}
			if bus.seen.Len() < 500 {
				t.Fatal("the tap saw nothing")
			}
			if bytes.Contains(bus.seen.Bytes(), kek[:8]) {
				t.Error("the key crossed the bus in the clear")
			}
			if b.PIN == nil {
				return
			}
			auth, err := b.PIN.authValue(t.Context(), cfg.NewPIN, nil)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(bus.seen.Bytes(), auth) {
				t.Error("the PIN crossed the bus in the clear")
			}
		})
	}
}

// scripted answers each command with the next response code.
type scripted struct {
	codes []tpm2.TPMRC
	sent  [][]byte
	out   bytes.Buffer
}

func (s *scripted) Write(p []byte) (int, error) {
	s.sent = append(s.sent, bytes.Clone(p))
	s.out.Write(binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(s.codes[0])))
	s.codes = s.codes[1:]
	return len(p), nil
}
func (s *scripted) Read(p []byte) (int, error) { return s.out.Read(p) }
func (s *scripted) Close() error               { return nil }

func TestBusyTPMIsAskedAgain(t *testing.T) {
	link := &scripted{codes: []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCSuccess}}
	d := &device{ctx: t.Context(), link: link, wait: func() error { return nil }}
	if _, err := d.Send([]byte("command")); err != nil {
		t.Fatal(err)
	}
	if len(link.sent) != 5 || string(link.sent[4]) != "command" {
		t.Fatalf("sent %q", link.sent)
	}
	link = &scripted{codes: []tpm2.TPMRC{tpm2.TPMRCLockout}}
	d.link = link
	if _, err := d.Send([]byte("command")); err != nil || len(link.sent) != 1 {
		t.Fatalf("another warning was retried: %d, %v", len(link.sent), err)
	}
}

// A TPM that takes commands and never answers costs the context's time, no more.
func TestSilentTPM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tpm")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 100)) // the command has arrived
		cancel()
		_, _ = conn.Read(make([]byte, 1)) // until the other side hangs up
	}()
	if _, err := New(Config{Path: path}).Wrap(ctx, binding, tierKey); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestNonsenseFromTPM(t *testing.T) {
	for name, answer := range map[string]string{
		"hangs up":  "",
		"cut short": "\x80\x01\x00\x00\x00\x20\x00\x00\x00\x00ab",
		"too long":  "\x80\x01\x7f\xff\xff\xff\x00\x00\x00\x00",
		"too small": "\x80\x01\x00\x00\x00\x03\x00\x00\x00\x00",
		"garbage":   "HTTP/1.1 400 Bad Request\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				_, _ = far.Read(make([]byte, 100))
				_, _ = far.Write([]byte(answer))
			}()
			d := &device{ctx: t.Context(), link: near, wait: func() error { return nil }}
			defer d.Close()
			if _, err := d.Send([]byte("command")); !errors.Is(err, ErrNoTPM) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
