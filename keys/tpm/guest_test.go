//go:build guest

package tpm

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// scratchPCR may be reset without a reboot (PC client profile, "application support"),
// so a test can change it and leave the machine as it was.
const scratchPCR = 23

// The kernel's device: what the firmware of the guest measured is taken without
// allow-zero-pcrs, a changed PCR is named, and its old value opens again.
func TestDeviceSealsToTheBoot(t *testing.T) {
	raw := wrap(t, Config{PCRs: mustPCRs(t, DefaultPCRs+",23")})
	expectOpen(t, Config{}, raw)

	d, err := open(t.Context(), DefaultPath)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	scratch := tpm2.AuthHandle{Handle: scratchPCR, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.PCREvent{PCRHandle: scratch, EventData: tpm2.TPM2BEvent{Buffer: []byte("changed")}}).Execute(d); err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{}).Unwrap(t.Context(), binding, raw)
	if c := keys.ChangedPCRs(err); len(c) != 1 || c[0].Index != scratchPCR {
		t.Errorf("got %v", err)
	}
	if _, err := (tpm2.PCRReset{PCRHandle: scratch}).Execute(d); err != nil {
		t.Fatal(err)
	}
	expectOpen(t, Config{}, raw)
}

// The resource manager lets many open the TPM at once, more than it has slots for.
func TestDeviceIsShared(t *testing.T) {
	raw := wrap(t, Config{PCRs: mustPCRs(t, "7")})
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if _, err := New(Config{}).Unwrap(t.Context(), binding, raw); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestDeviceGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Config{}).Wrap(ctx, binding, tierKey); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// The commands that are told where the owner has a password make the very key that slots
// were sealed under before it was set.
func TestDeviceAdviceHelps(t *testing.T) {
	d, err := open(t.Context(), DefaultPath)
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.chooseRoot()
	if err != nil {
		t.Fatal(err)
	}
	d.releaseRoot(before)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command := func(text string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", text)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", text, err, out)
		}
	}
	command("tpm2_changeauth -c owner PASSWORD")
	t.Cleanup(func() { command("tpm2_changeauth -c owner -p PASSWORD; tpm2_evictcontrol -C o -c 0x81000001") })
	find := func() (*root, error) {
		d, err := open(t.Context(), DefaultPath)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.findRoot(before.name.Buffer, 0, false)
	}
	if _, err := find(); !errors.Is(err, ErrOwnerPassword) {
		t.Fatalf("got %v", err)
	}
	_, advice, _ := strings.Cut(persistAdvice, "with tpm2-tools: ")
	command(advice)
	if r, err := find(); err != nil || r.transient {
		t.Fatalf("the advice does not help: %v", err)
	}
}
