package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/tpm/swtpmtest"
)

func newECDSA(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSA(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// present reads PCRs of the emulator.
func present(t *testing.T, chip *swtpmtest.TPM, sel Selection) (values [][]byte) {
	t.Helper()
	d, err := open(t.Context(), chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if values, err = d.readPCRs(sel); err != nil {
		t.Fatal(err)
	}
	return values
}

// extended computes what PCRs become, without the TPM, as a builder of images would.
func extended(values [][]byte, i int, event string) [][]byte {
	out := append([][]byte{}, values...)
	measured := sha256.Sum256([]byte(event))
	sum := sha256.Sum256(append(bytes.Clone(values[i]), measured[:]...))
	out[i] = sum[:]
	return out
}

func write(t *testing.T, path string, files ...PolicyFile) {
	t.Helper()
	all := PolicyFile{}
	for _, f := range files {
		all.Add(f)
	}
	data, err := all.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sign(t *testing.T, key crypto.Signer, sel Selection, values [][]byte) PolicyFile {
	t.Helper()
	f, err := SignPolicy(key, sel, values)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A policy signed for the PCRs of the next boot, computed before that boot, opens the
// slot after it; nothing else does.
func TestSignedPolicyCarriesOverAChange(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"ECDSA": newECDSA(t), "RSA": newRSA(t, 2048)} {
		t.Run(name, func(t *testing.T) {
			chip := swtpmtest.Start(t).Boot()
			path := filepath.Join(t.TempDir(), "policies")
			cfg := Config{Path: chip.Socket, PCRs: mustPCRs(t, DefaultPCRs), SignedBy: key.Public(), Policies: path}
			raw := wrap(t, cfg)
			open := Config{Path: chip.Socket, Policies: path}
			expectOpen(t, open, raw) // nothing signed yet

			values := present(t, chip, cfg.PCRs)
			next := sign(t, key, cfg.PCRs, extended(values, 4, "kernel 2"))
			chip.Extend(4, "kernel 2")
			fails := func(why string) {
				t.Helper()
				_, err := New(open).Unwrap(t.Context(), binding, raw)
				if !errors.Is(err, ErrNoPolicy) || len(keys.ChangedPCRs(err)) == 0 {
					t.Fatalf("%s: %v", why, err)
				}
			}
			fails("nothing signed")
			write(t, path, sign(t, newECDSA(t), cfg.PCRs, extended(values, 4, "kernel 2")))
			fails("another key signed")
			write(t, path, sign(t, key, cfg.PCRs, extended(values, 4, "kernel 3")))
			fails("other values signed")
			forged := sign(t, newECDSA(t), cfg.PCRs, extended(values, 4, "kernel 2"))
			forged["sha256"][0].Key = next["sha256"][0].Key
			write(t, path, forged)
			fails("a forged signature")
			if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			fails("a broken file")

			write(t, path, next, sign(t, key, cfg.PCRs, extended(values, 4, "kernel 3")))
			for range 5 { // leaks in the TPM would show
				expectOpen(t, open, raw)
			}
			chip.Extend(4, "something else")
			fails("a change after the signed one")
			// The signer may speak of fewer PCRs.
			few := mustPCRs(t, "7")
			write(t, path, sign(t, key, few, present(t, chip, few)))
			expectOpen(t, open, raw)
		})
	}
}

func TestSignedPolicyWithPIN(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	key, path := newECDSA(t), filepath.Join(t.TempDir(), "policies")
	sel := mustPCRs(t, "0,7")
	raw := wrap(t, Config{Path: chip.Socket, PCRs: sel, SignedBy: key.Public(), NewPIN: pin("123456789012")})
	chip.Extend(7, "new")
	write(t, path, sign(t, key, sel, present(t, chip, sel)))
	cfg := Config{Path: chip.Socket, Policies: path, PIN: pin("123456789012")}
	expectOpen(t, cfg, raw)
	cfg.PIN = pin("4321")
	if _, err := New(cfg).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrWrongPIN) {
		t.Fatalf("got %v", err)
	}
	sealing, err := SealingOf(raw)
	if err != nil || !sealing.PIN || sealing.SignedBy == nil || sealing.PCRs.String() != "sha256:0,7" {
		t.Fatalf("%+v, %v", sealing, err)
	}
}

// Without the TPM's own check our software would be all that stands between a forged
// policy and the key: the TPM must refuse too.
func TestTPMRefusesForgedPolicy(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	key, sel := newECDSA(t), mustPCRs(t, "0,7")
	s, err := newSigner(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	forged := sign(t, newECDSA(t), sel, present(t, chip, sel))["sha256"][0]
	d, err := open(t.Context(), chip.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.verify(&ticket{signer: s, approved: forged, sel: sel}); err == nil {
		t.Fatal("the TPM took a forged signature")
	}
}

func TestPolicyKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	chip := swtpmtest.Start(t).Boot()
	for name, key := range map[string]crypto.Signer{"P-384": p384, "RSA 1024": newRSA(t, 1024)} {
		_, err := New(Config{Path: chip.Socket, PCRs: mustPCRs(t, "7"), SignedBy: key.Public()}).Wrap(t.Context(), binding, tierKey)
		if !errors.Is(err, ErrBadPolicyKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = New(Config{Path: chip.Socket, SignedBy: newECDSA(t).Public()}).Wrap(t.Context(), binding, tierKey)
	if !errors.Is(err, ErrBadPolicy) {
		t.Errorf("without PCRs: %v", err)
	}
	sel := mustPCRs(t, "sha256:7")
	for name, values := range map[string][][]byte{"none": nil, "short": {make([]byte, 20)}, "too many": {make([]byte, 32), make([]byte, 32)}} {
		if _, err := SignPolicy(newECDSA(t), sel, values); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "x", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}))} {
		if _, err := ParsePublicKey([]byte(text)); !errors.Is(err, ErrBadPolicyKey) {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := ParsePrivateKey([]byte(text)); !errors.Is(err, ErrBadPolicyKey) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The public area that stands for a key is part of every slot's policy: were it built
// differently one day, no signed policy would open a slot any more.
func TestSignerNames(t *testing.T) {
	for file, want := range map[string]string{
		"testdata/signer-p256.pem": "000b1e768763b7e060b4bd883d8a70911bd368310ff9887b9a5466f3fef85ce3cc3b",
		"testdata/signer-rsa.pem":  "000b4288d8ee928f58944ece1833019ca53d356b7e8b6bd3c7aad9fbb7a166376c9b",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ParsePublicKey(text)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(s.name.Buffer); got != want {
			t.Errorf("%s is named %s, and was %s", file, got, want)
		}
	}
}

func TestPolicyFileIsSystemds(t *testing.T) {
	key := newRSA(t, 2048)
	f := sign(t, key, mustPCRs(t, "11"), [][]byte{make([]byte, 32)})
	a := f["sha256"][0]
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	print := sha256.Sum256(x509.MarshalPKCS1PublicKey(parsed.(*rsa.PublicKey)))
	if !bytes.Equal(a.Key, print[:]) {
		t.Error("another fingerprint than i2d_PublicKey's")
	}
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, f, f)
	again, err := ReadPolicies(path)
	if err != nil || len(again["sha256"]) != 1 {
		t.Fatalf("%v, %v", again, err)
	}
	for _, text := range []string{`{"md5":[{}]}`, `{"sha256":[{"pcrs":[]}]}`, `{"sha256":[{"pcrs":[99],"pol":"00"}]}`, `[]`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPolicies(path); !errors.Is(err, ErrBadPolicy) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
