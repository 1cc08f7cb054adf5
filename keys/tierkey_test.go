package keys

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// The page of a key is locked, left out of dumps and wiped in a forked child.
func TestKeyMemory(t *testing.T) {
	key, err := newTierKey()
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&key.mem.page[0])))
	_, rest, found := strings.Cut(string(smaps), "\n"+start)
	if !found {
		t.Fatal("the key has no mapping of its own")
	}
	_, flags, _ := strings.Cut(rest, "VmFlags: ")
	flags, _, _ = strings.Cut(flags, "\n")
	for _, flag := range []string{"lo", "dd", "wf"} {
		if !strings.Contains(" "+flags+" ", " "+flag+" ") {
			t.Errorf("flag %q is not among %q", flag, flags)
		}
	}
}

// The passphrases of layer "a" with LUKS UUID "u" under a tier key of 32 bytes of 7, by image
// format; HKDF-SHA256 of another program (Python's hashlib and hmac).
const (
	frozenPassphrase1 = "c1b243d60b6ad959926995731928545afd92d642d4367c8aaed92b4715f212b7"
	frozenPassphrase2 = "c28403c2c7e0c1338bda013c6e9bcd2acab8febf0fdb4d6cd470490716c8002e"
)

func TestPassphrase(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, KeySize)
	key, err := tierKeyFrom(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, make([]byte, KeySize)) {
		t.Error("the source was not wiped")
	}
	seen := map[string]bool{}
	for _, in := range [][3]string{{"layer", "a", "u"}, {"volume", "a", "u"}, {"layer", "b", "u"}, {"layer", "a", "v"}} {
		for _, format := range []int{1, 2} {
			p, err := key.Passphrase(format, in[0], in[1], in[2])
			if err != nil {
				t.Fatal(err)
			}
			if n, err := hex.Decode(make([]byte, KeySize), p); err != nil || n != KeySize {
				t.Errorf("%v: %q is not 32 bytes of hex", in, p)
			}
			if seen[string(p)] {
				t.Errorf("%v, format %d: the same as another", in, format)
			}
			seen[string(p)] = true
		}
	}
	// Frozen: the derivation is a part of the format of images.
	for format, want := range map[int]string{1: frozenPassphrase1, 2: frozenPassphrase2} {
		if p, err := key.Passphrase(format, "layer", "a", "u"); err != nil || string(p) != want {
			t.Errorf("format %d: %s, %v, want %s", format, p, err, want)
		}
	}
	for _, format := range []int{0, 3, -1} {
		if _, err := key.Passphrase(format, "layer", "a", "u"); err == nil {
			t.Errorf("format %d was taken", format)
		}
	}
	for _, in := range [][3]string{{"", "a", "u"}, {"layer", "", "u"}, {"layer", "a", ""}, {"layer/a", "b", "u"}, {"layer", "a/b", "u"}} {
		if _, err := key.Passphrase(1, in[0], in[1], in[2]); err == nil {
			t.Errorf("%v was taken", in)
		}
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
}

// A key is not printed, closes twice, and is of no use afterwards.
func TestTierKeyLife(t *testing.T) {
	key, err := tierKeyFrom(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", key, key, key); strings.Contains(s, "7, 7") || strings.Contains(s, "0707") {
		t.Errorf("printed the key: %s", s)
	}
	for range 2 {
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := key.Passphrase(1, "layer", "a", "u"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := tierKeyFrom([]byte("short")); !errors.Is(err, ErrDamagedSlot) {
		t.Errorf("a short key: %v", err)
	}
}

// Records are authenticated as the format says: anybody can compute it who has the key.
func TestMAC(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, KeySize)
	key, err := tierKeyFrom(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"layer", "volume"} {
		subkey, err := hkdf.Key(sha256.New, raw, nil, "layervault/2/mac/"+what, 32)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range [][]byte{nil, []byte("{}"), bytes.Repeat([]byte("x"), 1000)} {
			want := hmac.New(sha256.New, subkey)
			want.Write(data)
			if got, err := key.MAC(what, data); err != nil || !hmac.Equal(got, want.Sum(nil)) {
				t.Errorf("%s, %d bytes: %x, %v", what, len(data), got, err)
			}
		}
	}
	if _, err := key.MAC("", nil); err == nil {
		t.Error("a record of no kind was taken")
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := key.MAC("layer", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
