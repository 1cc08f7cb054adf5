package dm

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The layout as a C compiler gives it, from <linux/dm-ioctl.h>.
func TestRequestLayout(t *testing.T) {
	b := newRequest(1000, "name", "uuid", 0x12345678)
	if len(b) != 1000 || headerSize != 312 || unix.DM_VERSION>>16&0x3fff != headerSize {
		t.Fatalf("%d bytes, header of %d", len(b), headerSize)
	}
	for _, c := range []struct {
		field string
		at    int
		want  uint32
	}{
		{"version", 0, 4}, {"minor", 4, 0}, {"data_size", 12, 1000}, {"data_start", 16, 312}, {"flags", 28, 0x12345678},
	} {
		if got := native.Uint32(b[c.at:]); got != c.want {
			t.Errorf("%s is %#x, want %#x", c.field, got, c.want)
		}
	}
	if cstring(b[48:]) != "name" || cstring(b[176:]) != "uuid" {
		t.Errorf("name %q, uuid %q", cstring(b[48:]), cstring(b[176:]))
	}
}

func TestTargets(t *testing.T) {
	want := []Target{
		{Start: 0, Length: 8, Type: "linear", Params: "7:0 0"},
		{Start: 8, Length: 1 << 40, Type: "crypt", Params: strings.Repeat("p", 301)},
		{Start: 1 << 41, Length: 1, Type: "zero"},
	}
	b, err := encodeTargets(want)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel answers with offsets from the first entry.
	at := 0
	for range want {
		next := int(native.Uint32(b[at+specNext:]))
		if next%8 != 0 {
			t.Errorf("entry of %d bytes is not aligned", next)
		}
		native.PutUint32(b[at+specNext:], uint32(at+next))
		at += next
	}
	if at != len(b) {
		t.Errorf("entries take %d of %d bytes", at, len(b))
	}
	got, err := decodeTargets(b, uint32(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []Target{{Type: ""}, {Type: strings.Repeat("t", 16)}, {Type: "t", Params: "a\x00b"}} {
		if _, err := encodeTargets([]Target{bad}); !errors.Is(err, ErrTarget) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestDecodeRefusesWhatIsCutOff(t *testing.T) {
	b, err := encodeTargets([]Target{{Type: "zero", Params: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeTargets(b[:specSize-1], 1); err == nil {
		t.Error("short table was taken")
	}
	if _, err := decodeTargets(b, 2); err == nil {
		t.Error("table without its second entry was taken")
	}
	if _, err := decodeNames(make([]byte, 11)); err == nil {
		t.Error("short list was taken")
	}
	if _, err := decodeDeps(native.AppendUint64(nil, 5)); err == nil {
		t.Error("dependencies beyond the end were taken")
	}
}

func TestDecodeNames(t *testing.T) {
	entry := func(dev uint64, name string, last bool) []byte {
		b := native.AppendUint64(nil, dev)
		n := align8(12 + len(name) + 1)
		next := uint32(n)
		if last {
			next = 0
		}
		b = append(native.AppendUint32(b, next), name...)
		return append(b, make([]byte, n-len(b))...)
	}
	got, err := decodeNames(bytes.Join([][]byte{entry(0xfd00, "first", false), entry(0xfd01, "second-of-them", false), entry(0x10fd00, "third", true)}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]NameEntry{{"first", 0xfd00}, {"second-of-them", 0xfd01}, {"third", 0x10fd00}}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := decodeNames(make([]byte, 16)); err != nil || got != nil {
		t.Errorf("no devices: %v, %v", got, err)
	}
	if kernelMajor(0x10fd00) != 0xfd || kernelMinor(0x10fd00) != 0x100 {
		t.Errorf("device number %d:%d", kernelMajor(0x10fd00), kernelMinor(0x10fd00))
	}
}

func TestCryptTarget(t *testing.T) {
	for _, c := range []struct {
		table CryptTable
		want  string
	}{
		{
			CryptTable{Cipher: "aes-xts-plain64", KeySize: 64, Dev: unix.Mkdev(7, 300), Offset: 2048, Length: 800, SectorSize: 4096, NoWorkqueues: true},
			"aes-xts-plain64 :64:logon:layervault:u 0 7:300 2048 4 allow_discards sector_size:4096 no_read_workqueue no_write_workqueue",
		},
		{
			CryptTable{Cipher: "aes-cbc-essiv:sha256", KeySize: 32, IVOffset: 8, Dev: unix.Mkdev(7, 0), Offset: 32768, Length: 800, SectorSize: 512},
			"aes-cbc-essiv:sha256 :32:logon:layervault:u 8 7:0 32768 1 allow_discards",
		},
	} {
		if got, err := c.table.target(KeyRef{"logon", "layervault:u"}); err != nil || got.Params != c.want || got.Type != "crypt" || got.Length != 800 {
			t.Errorf("%+v, want %s", got, c.want)
		}
	}
}

func TestKeyRefs(t *testing.T) {
	table := CryptTable{Cipher: "capi:tk(cbc(aes))-plain", KeySize: 36, Dev: unix.Mkdev(7, 1), Length: 8, SectorSize: 512}
	const want = "capi:tk(cbc(aes))-plain :36:trusted:layervault:k 0 7:1 0 1 allow_discards"
	if got, err := table.target(KeyRef{"trusted", "layervault:k"}); err != nil || got.Params != want {
		t.Errorf("%s, want %s", got.Params, want)
	}
	for key, ok := range map[KeyRef]bool{
		{"trusted", "layervault:k"}: true, {"encrypted", "k"}: true, {"logon", "a:b"}: true, {"user", "k"}: true,
		{"keyring", "k"}: false, {"", "k"}: false, {"trusted", ""}: false, {"trusted", "a b"}: false, {"trusted", "a\x00b"}: false,
	} {
		if err := key.check(); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadName) {
			t.Errorf("%+v: %v", key, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{strings.Repeat("n", 127): true, strings.Repeat("n", 128): false, "a/b": false, "a\x00b": false} {
		if err := checkName(name, unix.DM_NAME_LEN); (err == nil) != ok || err != nil && !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	c, err := Open()
	if err == nil {
		_ = c.Close()
		if !c.Version().AtLeast(4, 0) {
			t.Errorf("version %s", c.Version())
		}
		return
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}
