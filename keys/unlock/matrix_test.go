package unlock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/tpm/swtpmtest"
)

// outcome is what a verb is to do: work, or fail with this error, which says so in its text or
// in the step that goes with it.
type outcome struct {
	err  error
	says string
}

func (o outcome) check(t *testing.T, verb string, err error) {
	t.Helper()
	switch {
	case o.err == nil && err != nil:
		t.Fatalf("%s: %v", verb, err)
	case o.err != nil && (!errors.Is(err, o.err) || !strings.Contains(err.Error()+"; "+Step(err, true), o.says)):
		t.Fatalf("%s: got %v (%s), want %v with %q", verb, err, Step(err, true), o.err, o.says)
	}
}

// withoutNoDA is a storage key as tpm2-tools make it without being told otherwise.
func withoutNoDA() tpm2.TPMTPublic {
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.NoDA = false
	return template
}

const srkHandle = 0x81000001

// shapes are TPMs as they are in the field: how one is when a vault is made, what becomes of
// it, and what the verbs do then.
var shapes = map[string]struct {
	before  func(chip *swtpmtest.TPM, cfg *Config)
	enroll  outcome
	after   func(chip *swtpmtest.TPM, cfg *Config)
	unlock  outcome
	recover outcome // by the recovery key: seal anew, then anchor
	fix     func(chip *swtpmtest.TPM, cfg *Config)
	then    outcome // unlocking in the end
	// notTried: nothing may count towards the TPM's lockout.
	notTried bool
}{
	"as they should be": {},
	"RSA only": {
		before: func(chip *swtpmtest.TPM, cfg *Config) { cfg.Set = cfg.Set.With("tpm", chip.WithoutECC()) },
	},
	"RSA only, its storage key persistent": {
		before: func(chip *swtpmtest.TPM, cfg *Config) {
			chip.Persist(tpm2.RSASRKTemplate, srkHandle, "", "")
			cfg.Set = cfg.Set.With("tpm", chip.WithoutECC())
		},
	},
	"owner password": {
		before: func(chip *swtpmtest.TPM, _ *Config) { chip.Password(tpm2.TPMRHOwner, "owner") },
		enroll: outcome{tpm.ErrOwnerPassword, "tpm2_evictcontrol -C o -P PASSWORD"},
	},
	"owner password, the advice followed": {
		before: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Password(tpm2.TPMRHOwner, "owner")
			chip.Persist(tpm2.ECCSRKTemplate, srkHandle, "owner", "")
		},
	},
	"owner password set later": {
		after:   func(chip *swtpmtest.TPM, _ *Config) { chip.Password(tpm2.TPMRHOwner, "owner") },
		unlock:  outcome{tpm.ErrOwnerPassword, "tpm2_evictcontrol -C o -P PASSWORD"},
		recover: outcome{tpm.ErrOwnerPassword, "tpm2_createprimary"},
		fix: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Persist(tpm2.ECCSRKTemplate, srkHandle, "owner", "")
		},
	},
	"storage key that counts failures, in lockout": {
		before:   func(chip *swtpmtest.TPM, _ *Config) { chip.Persist(withoutNoDA(), srkHandle, "", "") },
		after:    func(chip *swtpmtest.TPM, _ *Config) { chip.LockOut() },
		notTried: false,
	},
	"storage key that counts failures and has a password": {
		before:   func(chip *swtpmtest.TPM, _ *Config) { chip.Persist(withoutNoDA(), srkHandle, "", "secret") },
		notTried: true,
	},
	"storage key with a password": {
		before:   func(chip *swtpmtest.TPM, _ *Config) { chip.Persist(tpm2.ECCSRKTemplate, srkHandle, "", "secret") },
		notTried: true,
	},
	"owner password, storage key that counts failures": {
		before: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Persist(withoutNoDA(), srkHandle, "", "")
			chip.Password(tpm2.TPMRHOwner, "owner")
		},
		enroll:   outcome{tpm.ErrOwnerPassword, "dictionary attack lockout (made without noda)"},
		notTried: true,
	},
	"storage key evicted": {
		before: func(chip *swtpmtest.TPM, _ *Config) {
			template := tpm2.ECCSRKTemplate // another than the standard one
			template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
			chip.Persist(template, srkHandle, "", "")
		},
		after:  func(chip *swtpmtest.TPM, _ *Config) { chip.Evict(srkHandle) },
		unlock: outcome{tpm.ErrOtherTPM, "evicted"},
	},
	"in lockout": {
		after: func(chip *swtpmtest.TPM, _ *Config) { chip.LockOut() },
	},
	"in lockout from the start": {
		before: func(chip *swtpmtest.TPM, _ *Config) { chip.LockOut() },
	},
	"SHA-1 alone": {
		before: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Banks(tpm2.TPMAlgSHA1)
			chip.Restart()
			chip.Boot()
		},
		enroll: outcome{tpm.ErrPCRBank, "no sha256 values"},
	},
	"SHA-256 bank switched off later": {
		after: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Banks(tpm2.TPMAlgSHA384)
			chip.Restart()
			chip.Boot()
		},
		unlock:  outcome{tpm.ErrPCRBank, "layervault key reseal --recovery-key-file FILE --pcrs sha384:7"},
		recover: outcome{tpm.ErrPCRBank, "no sha256 values"},
		fix:     func(_ *swtpmtest.TPM, cfg *Config) { cfg.New = cfg.New.With("pcrs", "sha384:7") },
	},
	"power cycle": {
		after: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Restart()
			chip.Boot()
		},
	},
	"another boot loader": {
		after:  func(chip *swtpmtest.TPM, _ *Config) { chip.Extend(7, "other") },
		unlock: outcome{keys.ErrPCRChanged, "PCR 7 (sha256) was "},
	},
	"cleared": {
		after:  func(chip *swtpmtest.TPM, _ *Config) { chip.Clear() },
		unlock: outcome{tpm.ErrOtherTPM, "cleared"},
	},
	"out of sessions": {
		after:   func(chip *swtpmtest.TPM, _ *Config) { chip.FillSessions() },
		unlock:  outcome{tpm.ErrTPMFull, "tpm2_flushcontext -l"},
		recover: outcome{tpm.ErrTPMFull, "tpm2_flushcontext -l"},
		fix: func(chip *swtpmtest.TPM, _ *Config) {
			chip.Restart()
			chip.Boot()
		},
	},
	"gone": {
		after:   func(_ *swtpmtest.TPM, cfg *Config) { cfg.Set = cfg.Set.With("tpm", "/nonexistent/tpmrm0") },
		unlock:  outcome{tpm.ErrNoTPM, "does not exist"},
		recover: outcome{tpm.ErrNoTPM, "does not exist"},
		fix:     func(chip *swtpmtest.TPM, cfg *Config) { cfg.Set = cfg.Set.With("tpm", chip.Socket) },
	},
	"renumbered": {
		before: func(chip *swtpmtest.TPM, cfg *Config) { cfg.Set = cfg.Set.With("tpm", device(chip, "tpmrm0")) },
		after: func(chip *swtpmtest.TPM, cfg *Config) {
			if err := os.Rename(cfg.Set["tpm"], filepath.Join(filepath.Dir(cfg.Set["tpm"]), "tpmrm1")); err != nil {
				panic(err)
			}
		},
	},
}

// device gives the chip's socket a device's name.
func device(chip *swtpmtest.TPM, name string) string {
	path := filepath.Join(filepath.Dir(chip.Socket), name)
	if err := os.Symlink(chip.Socket, path); err != nil {
		panic(err)
	}
	return path
}

// Each shape with each verb works, or says what is the matter and which command helps; and
// that command does help.
func TestTPMsInTheField(t *testing.T) {
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			chip := swtpmtest.Start(t).Boot()
			cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: tpm.Name, Set: keys.Values{"pcrs": "7", "tpm": chip.Socket}}
			if shape.before != nil {
				shape.before(chip, &cfg)
			}
			key, ring, err := OpenOrCreate(t.Context(), cfg)
			shape.enroll.check(t, "enroll", err)
			if shape.notTried && chip.Failures() != 0 {
				t.Errorf("%d failures count towards the lockout", chip.Failures())
			}
			if err != nil {
				if _, err := os.Stat(cfg.RingPath()); err == nil {
					t.Fatal("a ring was made all the same")
				}
				return
			}
			paper := recovery.Generate()
			if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, paper), ""); err != nil {
				t.Fatal(err)
			}
			if err := key.Close(); err != nil {
				t.Fatal(err)
			}
			if shape.after != nil {
				shape.after(chip, &cfg)
			}
			shape.unlock.check(t, "unlock", opened(t, cfg))
			shape.recover.check(t, "recover", recovered(t, cfg, paper))
			if shape.fix != nil {
				shape.fix(chip, &cfg)
				if err := recovered(t, cfg, paper); err != nil {
					t.Fatalf("recover, after what the message says: %v", err)
				}
			}
			shape.then.check(t, "unlock in the end", opened(t, cfg))
			if shape.notTried && chip.Failures() != 0 {
				t.Errorf("%d failures count towards the lockout", chip.Failures())
			}
		})
	}
}

// recovered seals the first slot anew with the recovery key, and anchors the ring.
func recovered(t *testing.T, cfg Config, paper []byte) error {
	t.Helper()
	person := cfg
	person.Recovery = paper
	key, ring, _, err := Open(t.Context(), person)
	if err != nil {
		return err
	}
	defer key.Close()
	p, err := cfg.ForNewSlot(t.Context(), tpm.Name)
	if err != nil {
		return err
	}
	if _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, p); err != nil {
		return err
	}
	return ring.Reanchor(t.Context(), key)
}

// A TPM whose driver is late is waited for, with a word about it; where none comes the wait
// ends.
func TestLateTPM(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	path := filepath.Join(filepath.Dir(chip.Socket), "tpmrm0")
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: tpm.Name, New: keys.Values{"pcrs": "7"}, Set: keys.Values{"tpm": path}, WaitUntil: time.Now().Add(time.Minute)}
	// The device comes when the wait is told of.
	cfg.Log = slog.New(onWait{func() {
		if err := os.Symlink(chip.Socket, path); err != nil {
			t.Error(err)
		}
	}})
	open(t, cfg)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := opened(t, cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(onWait{func() {}})
	cfg.WaitUntil = time.Now().Add(10 * time.Millisecond)
	if err := opened(t, cfg); !errors.Is(err, tpm.ErrNoTPM) {
		t.Fatalf("got %v", err)
	}
}

// onWait is a log that runs fn at the word that a TPM is waited for.
type onWait struct{ fn func() }

func (onWait) Enabled(context.Context, slog.Level) bool { return true }
func (h onWait) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h onWait) WithGroup(string) slog.Handler          { return h }
func (h onWait) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "waiting for the TPM") {
		h.fn()
	}
	return nil
}
