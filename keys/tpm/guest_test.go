//go:build guest

package tpm

import (
	"context"
	"errors"
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
