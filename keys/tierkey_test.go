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
		p, err := key.Passphrase(1, in[0], in[1], in[2])
		if err != nil {
			t.Fatal(err)
		}
		if n, err := hex.Decode(make([]byte, KeySize), p); err != nil || n != KeySize {
			t.Errorf("%v: %q is not 32 bytes of hex", in, p)
		}
		if seen[string(p)] {
			t.Errorf("%v: the same as another", in)
		}
		seen[string(p)] = true
	}
	for _, in := range [][3]string{{"", "a", "u"}, {"layer", "", "u"}, {"layer", "a", ""}, {"layer/a", "b", "u"}, {"layer", "a/b", "u"}} {
		if _, err := key.Passphrase(1, in[0], in[1], in[2]); err == nil {
			t.Errorf("%v was taken", in)
		}
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
