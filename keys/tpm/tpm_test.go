package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"layervault/keys"
	"layervault/keys/tpm/swtpmtest"
)

var (
	binding = keys.Binding{RingID: "ring", SlotID: "slot", Provider: Name}
	tierKey = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

func mustPCRs(t *testing.T, text string) Selection {
	t.Helper()
	sel, err := ParsePCRs(text)
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

func wrap(t *testing.T, cfg Config) json.RawMessage {
	t.Helper()
	raw, err := New(cfg).Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func expectOpen(t *testing.T, cfg Config, raw json.RawMessage) {
	t.Helper()
	got, err := New(cfg).Unwrap(t.Context(), binding, raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, tierKey) {
		t.Fatal("another key came back")
	}
}

func TestSealAndUnseal(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	for _, pcrs := range []string{DefaultPCRs, "sha256:7", "sha384:0,2,4", "0-23", "none"} {
		t.Run(pcrs, func(t *testing.T) {
			cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, pcrs)}
			raw := wrap(t, cfg)
			expectOpen(t, Config{Path: chip.Socket}, raw) // the slot alone says how
			if bytes.Contains(raw, []byte(hex.EncodeToString(tierKey))) {
				t.Fatal("the key is in the blob")
			}
			if got, want := New(cfg).Describe(raw).PCRs, mustPCRs(t, pcrs).String(); got != want {
				t.Fatalf("described as %q, want %q", got, want)
			}
		})
	}
}

// No transient object or session may stay in the TPM: a chip without a resource
// manager has room for three.
func TestLeavesNothingInTheTPM(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, "7")}
	raw := wrap(t, cfg)
	for range 5 {
		expectOpen(t, cfg, raw)
	}
	chip.Extend(7, "other")
	for range 5 {
		if _, err := New(cfg).Unwrap(t.Context(), binding, raw); err == nil {
			t.Fatal("opened with a changed PCR")
		}
	}
	chip.ExpectEmpty(t)
}

func TestChangedPCRsAreNamed(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, DefaultPCRs)}
	raw := wrap(t, cfg)
	before, err := parseBlob(raw)
	if err != nil {
		t.Fatal(err)
	}
	chip.Extend(5, "not sealed to")
	expectOpen(t, cfg, raw)
	chip.Extend(7, "new keys")
	chip.Extend(2, "new card")

	_, err = New(cfg).Unwrap(t.Context(), binding, raw)
	changes := keys.ChangedPCRs(err)
	if len(changes) != 2 || changes[0].Index != 2 || changes[1].Index != 7 {
		t.Fatalf("want PCR 2 and 7, got %v", err)
	}
	for _, c := range changes {
		if c.Bank != "sha256" || c.Old != before.Values[c.Index] || len(c.New) != 64 || c.Old == c.New {
			t.Errorf("wrong values: %+v", c)
		}
	}
	expectOpen(t, cfg, wrap(t, cfg)) // sealed anew
}

func TestAnotherTPM(t *testing.T) {
	for _, pcrs := range []string{"7", "none"} {
		t.Run(pcrs, func(t *testing.T) {
			one, two := swtpmtest.Start(t).Boot(), swtpmtest.Start(t).Boot()
			raw := wrap(t, Config{Path: one.Socket, PCRs: mustPCRs(t, pcrs)})
			if _, err := New(Config{Path: two.Socket}).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrOtherTPM) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestClearedTPM(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, "7")}
	raw := wrap(t, cfg)
	chip.Do(func(c transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(c)
		return err
	})
	if _, err := New(cfg).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrOtherTPM) {
		t.Fatalf("got %v", err)
	}
}

func TestUnmeasuredBankIsRefused(t *testing.T) {
	fresh := swtpmtest.Start(t)
	onlyZero := swtpmtest.Start(t)
	onlyZero.Extend(0, "firmware")
	for name, tc := range map[string]struct {
		chip *swtpmtest.TPM
		pcrs string
	}{
		"all zero":   {fresh, DefaultPCRs},
		"all ff":     {fresh, "17-22"},
		"PCR 4 zero": {onlyZero, "0,7"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Path: tc.chip.Socket, PCRs: mustPCRs(t, tc.pcrs)}
			if _, err := New(cfg).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrPCRBank) {
				t.Fatalf("got %v", err)
			}
			cfg.AllowZeroPCRs = true
			expectOpen(t, cfg, wrap(t, cfg))
		})
	}
	t.Run("none needs no bank", func(t *testing.T) { wrap(t, Config{Path: fresh.Socket}) })
}

func pin(s string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(s), nil }
}

func TestPINAndLockout(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	raw := wrap(t, Config{Path: chip.Socket, PCRs: mustPCRs(t, "7"), NewPIN: pin("the right PIN")})
	expectOpen(t, Config{Path: chip.Socket, PIN: pin("the right PIN")}, raw)

	if _, err := New(Config{Path: chip.Socket}).Unwrap(t.Context(), binding, raw); !errors.Is(err, keys.ErrNeedsPerson) {
		t.Fatalf("without a PIN: %v", err)
	}
	var err error
	for i := range 40 { // swtpm locks out after 3; the specification leaves the number open
		wrong := New(Config{Path: chip.Socket, PIN: pin(fmt.Sprintf("wrong PIN %d", i))})
		if _, err = wrong.Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrWrongPIN) {
			break
		}
	}
	var lockout *Lockout
	if !errors.As(err, &lockout) || !errors.Is(err, ErrLockout) {
		t.Fatalf("want a lockout, got %v", err)
	}
	if lockout.MaxFailures == 0 || lockout.Failures < lockout.MaxFailures || lockout.Recovery == 0 {
		t.Fatalf("lockout without the TPM's numbers: %+v", lockout)
	}
	// A slot without a PIN is not touched by it.
	cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, "7")}
	expectOpen(t, cfg, wrap(t, cfg))
}

func TestPINWithoutPCRs(t *testing.T) {
	chip := swtpmtest.Start(t)
	raw := wrap(t, Config{Path: chip.Socket, NewPIN: pin("123456789012")})
	expectOpen(t, Config{Path: chip.Socket, PIN: pin("123456789012")}, raw)
	if _, err := New(Config{Path: chip.Socket, PIN: pin("123456789013")}).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrWrongPIN) {
		t.Fatalf("got %v", err)
	}
}

// One wrong PIN reaches the TPM once, whoever asks how often; another one, and the same one
// for a slot that was sealed anew, is tried.
func TestWrongPINIsSentOnce(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	raw := wrap(t, Config{Path: chip.Socket, NewPIN: pin("the right PIN")})
	failures := func() (n uint32) {
		chip.Do(func(c transport.TPM) error {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(c)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.TPMProperties()
			n = list.TPMProperty[0].Value
			return err
		})
		return n
	}
	for range 6 {
		if _, err := New(Config{Path: chip.Socket, PIN: pin("the wrong PIN")}).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrWrongPIN) {
			t.Fatalf("got %v", err)
		}
	}
	if n := failures(); n != 1 {
		t.Fatalf("the TPM counts %d failures", n)
	}
	expectOpen(t, Config{Path: chip.Socket, PIN: pin("the right PIN")}, raw)
	again := wrap(t, Config{Path: chip.Socket, NewPIN: pin("the wrong PIN")})
	expectOpen(t, Config{Path: chip.Socket, PIN: pin("the wrong PIN")}, again)
}

// The least length of a new PIN follows from what the TPM does against guessing.
func TestWeakPINs(t *testing.T) {
	for name, tc := range map[string]struct {
		rules lockoutRules
		least int
	}{
		"everybody clears it":    {lockoutRules{false, 32, 10 * time.Minute}, 11},
		"Windows' numbers":       {lockoutRules{true, 32, 10 * time.Minute}, 6},
		"two hours for each":     {lockoutRules{true, 32, 2 * time.Hour}, 5},
		"a day for each":         {lockoutRules{true, 5, 24 * time.Hour}, 4},
		"nothing counts":         {lockoutRules{true, 0, 0}, 11},
		"failures are forgotten": {lockoutRules{true, 32, 0}, 11},
	} {
		if got := tc.rules.leastPIN(); got != tc.least {
			t.Errorf("%s: %d characters, want %d", name, got, tc.least)
		}
		if err := tc.rules.judge(make([]byte, tc.least-1)); !errors.Is(err, ErrWeakPIN) {
			t.Errorf("%s: %v", name, err)
		}
		if err := tc.rules.judge(make([]byte, tc.least)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	chip := swtpmtest.Start(t).Boot()
	short := Config{Path: chip.Socket, NewPIN: pin("12345678"), PIN: pin("12345678")}
	_, err := New(short).Wrap(t.Context(), binding, tierKey)
	if !errors.Is(err, ErrWeakPIN) || !strings.Contains(err.Error(), "no lockout authorisation is set") {
		t.Fatalf("got %v", err)
	}
	kept := short
	kept.KeepPIN = true
	expectOpen(t, short, wrap(t, kept))
	chip.Do(func(c transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("lockout")},
		}.Execute(c)
		return err
	})
	expectOpen(t, short, wrap(t, short))
	tiny := Config{Path: chip.Socket, NewPIN: pin("1234")}
	if _, err := New(tiny).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrWeakPIN) {
		t.Fatalf("got %v", err)
	}
}

// persist puts a primary key of the given template at a persistent handle.
func persist(t *testing.T, chip *swtpmtest.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, at uint32) {
	t.Helper()
	chip.Do(func(c transport.TPM) error {
		key, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth:             tpm2.TPMRHOwner,
			ObjectHandle:     &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			PersistentHandle: tpm2.TPMHandle(at),
		}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(c)
		return err
	})
}

// EVE keeps its endorsement key where the TCG puts the storage root key.
func TestPersistentHandles(t *testing.T) {
	systemd := tpm2.ECCSRKTemplate // another valid storage key: empty unique, so another name
	systemd.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	for name, tc := range map[string]struct {
		hierarchy tpm2.TPMHandle
		template  tpm2.TPMTPublic
		at        uint32
		used      bool
	}{
		"storage key at 0x81000001":     {tpm2.TPMRHOwner, systemd, 0x81000001, true},
		"storage key at 0x81000002":     {tpm2.TPMRHOwner, systemd, 0x81000002, true},
		"endorsement key at 0x81000001": {tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate, 0x81000001, false},
		"RSA storage key at 0x81000001": {tpm2.TPMRHOwner, tpm2.RSASRKTemplate, 0x81000001, false},
	} {
		t.Run(name, func(t *testing.T) {
			chip := swtpmtest.Start(t).Boot()
			cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, "7")}
			primary, err := parseBlob(wrap(t, cfg))
			if err != nil {
				t.Fatal(err)
			}
			persist(t, chip, tc.hierarchy, tc.template, tc.at)
			raw := wrap(t, cfg)
			expectOpen(t, cfg, raw)
			b, err := parseBlob(raw)
			if err != nil {
				t.Fatal(err)
			}
			if used := !bytes.Equal(b.SRK, primary.SRK); used != tc.used {
				t.Fatalf("persistent key used: %v, want %v", used, tc.used)
			}
		})
	}
}

func TestPolicyDigestIsTheSpecified(t *testing.T) {
	sel := mustPCRs(t, "0,4,9")
	values := [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)}
	pcrs := sha256.Sum256(bytes.Join(values, nil))
	want := sha256.New()
	want.Write(make([]byte, 32))
	_ = binary.Write(want, binary.BigEndian, uint32(0x17f))
	_ = binary.Write(want, binary.BigEndian, uint32(1))
	_ = binary.Write(want, binary.BigEndian, uint16(0xb))
	want.Write([]byte{3, 0b0001_0001, 0b0000_0010, 0})
	want.Write(pcrs[:])
	got, err := pcrPolicy(sel, values)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Sum(nil)) {
		t.Fatalf("got %x, want %x", got, want.Sum(nil))
	}
}

func TestNoTPM(t *testing.T) {
	plain := t.TempDir() + "/file"
	for _, path := range []string{"/nonexistent", t.TempDir(), plain, "/dev/null"} {
		if _, err := New(Config{Path: path}).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrNoTPM) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
