// Package swtpmtest runs an emulated TPM 2.0 (swtpm) for a test.
package swtpmtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// startTimeout bounds the wait for the emulator's socket; it takes some 50 ms.
const startTimeout = 20 * time.Second

// TPM is a running emulator.
type TPM struct {
	Socket string // what tpm.Config.Path takes
	tb     testing.TB
	cmd    *exec.Cmd
	out    *bytes.Buffer
}

// Start runs a fresh TPM that ends with the test. Its PCRs are zero, as on a machine
// that measures nothing; see Boot.
func Start(tb testing.TB) *TPM {
	tb.Helper()
	// A unix socket's path has at most 107 bytes, and tb.TempDir may be longer.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	t := &TPM{Socket: filepath.Join(dir, "cmd"), tb: tb}
	t.start()
	tb.Cleanup(func() {
		t.stop()
		if tb.Failed() && t.out.Len() > 0 {
			tb.Logf("swtpm: %s", t.out.String())
		}
	})
	return t
}

// Restart is a power cycle: what is persistent stays, PCRs and sessions do not.
func (t *TPM) Restart() {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(chip)
		return err
	})
	t.stop()
	t.start()
}

func (t *TPM) stop() {
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
}

func (t *TPM) start() {
	t.tb.Helper()
	dir := filepath.Dir(t.Socket)
	_ = os.Remove(t.Socket)
	t.out = &bytes.Buffer{}
	t.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+t.Socket, "--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"),
		"--flags", "not-need-init,startup-clear")
	t.cmd.Stdout, t.cmd.Stderr = t.out, t.out
	if err := t.cmd.Start(); err != nil {
		t.tb.Fatalf("start swtpm (apt install swtpm): %v", err)
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", t.Socket)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.stop()
			t.tb.Fatalf("swtpm does not listen: %v: %s", err, t.out.String())
		}
	}
}

// Boot extends PCRs 0 to 9 as a firmware that measures would, and returns t.
func (t *TPM) Boot() *TPM {
	t.tb.Helper()
	for i := range 10 {
		t.Extend(i, "boot")
	}
	return t
}

// Extend extends one PCR of every bank with a hash of what.
func (t *TPM) Extend(pcr int, what string) {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		_, err := tpm2.PCREvent{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			EventData: tpm2.TPM2BEvent{Buffer: []byte(what)},
		}.Execute(chip)
		return err
	})
}

// Do runs commands on the TPM.
func (t *TPM) Do(fn func(chip transport.TPM) error) {
	t.tb.Helper()
	chip, err := linuxudstpm.Open(t.Socket)
	if err != nil {
		t.tb.Fatal(err)
	}
	err = fn(chip)
	_ = chip.Close()
	if err != nil {
		t.tb.Fatal(err)
	}
}

// ExpectEmpty wants no session and no object to be left in the TPM.
func (t *TPM) ExpectEmpty(tb testing.TB) {
	tb.Helper()
	t.Do(func(c transport.TPM) error {
		for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(c)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.Handles()
			if err != nil {
				return err
			}
			if len(list.Handle) != 0 {
				tb.Errorf("left in the TPM: %x", list.Handle)
			}
		}
		return nil
	})
}
