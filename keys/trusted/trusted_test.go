package trusted

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/keys"
)

var (
	binding = keys.Binding{RingID: "6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11", SlotID: "0a1b2c3d", Provider: Name}
	tierKey = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

// chip is a kernel with one chip behind its trusted keys, in software: what it seals only
// it opens. The kernel and its dm-crypt are in the guest's tests.
type chip struct {
	kind   string // whose form its blobs have
	secret byte
	noXTS  bool
	weak   string
	blind  error // of weakness
}

func (k chip) key(nonce []byte, n int) []byte {
	a := sha256.Sum256(append([]byte{k.secret, 1}, nonce...))
	b := sha256.Sum256(append([]byte{k.secret, 2}, nonce...))
	return append(a[:], b[:]...)[:n]
}

// blobOf puts a nonce in the form in which the chip's kernel gives sealed keys.
func (k chip) blobOf(nonce []byte, n int) []byte {
	switch k.kind {
	case kindTPM:
		return bytes.Join([][]byte{{0x30, 0x82, 1, 1}, tpmObject, nonce}, nil)
	case kindDCP:
		b := make([]byte, dcpHeader+n+dcpMAC)
		b[0], b[dcpHeader-4] = 1, byte(n)
		copy(b[len(b)-len(nonce):], nonce)
		return b
	case kindCAAM:
		return append(make([]byte, n+caamOverhead-len(nonce)), nonce...)
	}
	return append(make([]byte, n+32-len(nonce)), nonce...)
}

const nonceSize = 16

func (k chip) crypt(c cipher, key, sector []byte, encrypt bool) error {
	if k.noXTS && c == cipherXTS {
		return fmt.Errorf("no xts: %w", dm.ErrTarget)
	}
	x, err := xts.NewCipher(aes.NewCipher, append(key, key...)[:64])
	if err != nil {
		return err
	}
	if encrypt {
		x.Encrypt(sector, sector, 0)
	} else {
		x.Decrypt(sector, sector, 0)
	}
	return nil
}

func (k chip) seal(_ context.Context, src Source, c cipher, sector []byte) (string, error) {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce)
	sealed := hex.EncodeToString(k.blobOf(nonce, c.key))
	if src.kind == kindEncrypted {
		sealed = fmt.Sprintf("default %s %d ", src.master, c.key) + sealed
	}
	return sealed, k.crypt(c, k.key(nonce, c.key), sector, true)
}

func (k chip) open(_ context.Context, _ Source, c cipher, sealed string, sector []byte) error {
	raw, err := hex.DecodeString(sealed[strings.LastIndex(sealed, " ")+1:])
	if err != nil {
		return err
	}
	return k.crypt(c, k.key(raw[len(raw)-nonceSize:], c.key), sector, false)
}

func (k chip) weakness(Source) (string, error) { return k.weak, k.blind }

func on(t *testing.T, source string, k chip) *Provider {
	t.Helper()
	src, err := ParseSource(source)
	if err != nil {
		t.Fatal(err)
	}
	return &Provider{source: src, log: slog.New(slog.DiscardHandler), kernel: k}
}

func TestWrapUnwrap(t *testing.T) {
	for source, k := range map[string]chip{
		"tpm":                {kind: kindTPM},
		"tpm:0x81000002":     {kind: kindTPM},
		"caam":               {kind: kindCAAM},
		"dcp":                {kind: kindDCP, noXTS: true},
		"tee":                {kind: kindTEE},
		"tagged":             {},
		"encrypted:user:kmk": {},
	} {
		t.Run(source, func(t *testing.T) {
			p := on(t, source, k)
			raw, err := p.Wrap(t.Context(), binding, tierKey)
			if err != nil {
				t.Fatal(err)
			}
			// what opens it needs no setting
			got, err := (&Provider{kernel: k}).Unwrap(t.Context(), binding, raw)
			if err != nil || !bytes.Equal(got, tierKey) {
				t.Fatalf("got %x, %v", got, err)
			}
			if bytes.Contains(raw, tierKey) || bytes.Contains(raw, []byte(hex.EncodeToString(tierKey))) {
				t.Error("the slot holds the key")
			}
			if src, err := SourceOf(raw); err != nil || src != p.source {
				t.Errorf("source %v, %v", src, err)
			}
			if d := p.Describe(raw); d.Software != p.source.software() || d.Detail == "" || d.Person {
				t.Errorf("described as %+v", d)
			}
			k.secret++
			if _, err := on(t, source, k).Unwrap(t.Context(), binding, raw); !errors.Is(err, keys.ErrWrongKey) {
				t.Errorf("another chip: %v", err)
			}
			for _, b := range []keys.Binding{{RingID: "other", SlotID: binding.SlotID}, {RingID: binding.RingID, SlotID: "other"}} {
				if _, err := p.Unwrap(t.Context(), b, raw); !errors.Is(err, keys.ErrWrongKey) {
					t.Errorf("moved to %+v: %v", b, err)
				}
			}
		})
	}
}

func TestWrapRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		p     *Provider
		key   []byte
		want  error
		words string
	}{
		"no source":        {on(t, "", chip{}), tierKey, ErrBadSource, "source is not set"},
		"short key":        {on(t, "caam", chip{kind: kindCAAM}), tierKey[1:], keys.ErrWrongKey, "31 bytes"},
		"a TPM, not CAAM":  {on(t, "caam", chip{kind: kindTPM}), tierKey, ErrNoTrusted, "kernel uses tpm, not caam"},
		"CAAM, not a TPM":  {on(t, "tpm", chip{kind: kindCAAM}), tierKey, ErrNoTrusted, "kernel uses caam"},
		"CAAM, not DCP":    {on(t, "dcp", chip{kind: kindCAAM}), tierKey, ErrNoTrusted, "kernel uses caam"},
		"a TPM, not a TEE": {on(t, "tee", chip{kind: kindTPM}), tierKey, ErrNoTrusted, "kernel uses tpm"},
		"a TEE, not CAAM":  {on(t, "caam", chip{kind: kindTEE}), tierKey, ErrNoTrusted, "kernel uses another source"},
		"dm-crypt without": {&Provider{source: Source{kind: kindTagged}, kernel: refusing{dm.ErrTarget}}, tierKey, ErrNoTrusted, "dm-crypt does not accept key type logon"},
		"dm-crypt without trusted keys": {&Provider{source: Source{kind: kindCAAM}, kernel: refusing{dm.ErrTarget}}, tierKey, ErrNoTrusted,
			"dm-crypt does not accept key type trusted"},
		"no keys": {&Provider{source: Source{kind: kindCAAM}, kernel: refusing{ErrNoTrusted}}, tierKey, ErrNoTrusted, ""},
	} {
		_, err := tc.p.Wrap(t.Context(), binding, tc.key)
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// refusing is a kernel that refuses.
type refusing struct{ err error }

func (r refusing) seal(context.Context, Source, cipher, []byte) (string, error) { return "", r.err }
func (r refusing) open(context.Context, Source, cipher, string, []byte) error   { return r.err }
func (r refusing) weakness(Source) (string, error)                              { return "", nil }

func TestWeakSlotSaysSo(t *testing.T) {
	var log bytes.Buffer
	p := on(t, "caam", chip{kind: kindCAAM, weak: "a key that all share"})
	p.log = slog.New(slog.NewTextHandler(&log, nil))
	raw, err := p.Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Describe(raw); !d.Software || !strings.Contains(d.Detail, "PROTECTS NOTHING: a key that all share") {
		t.Errorf("described as %+v", d)
	}
	if !strings.Contains(log.String(), "protects nothing") || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log says %q", log.String())
	}
}

// Where the kernel's log may not be read, that is said, and the slot is made.
func TestUnknownWeakness(t *testing.T) {
	var log bytes.Buffer
	p := on(t, "caam", chip{kind: kindCAAM, blind: unix.EPERM})
	p.log = slog.New(slog.NewTextHandler(&log, nil))
	raw, err := p.Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Describe(raw); d.Software {
		t.Errorf("described as %+v", d)
	}
	if !strings.Contains(log.String(), "layervault doctor") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestWeaknesses(t *testing.T) {
	const (
		caam = "[    1.5] caam_jr 30901000.jr: using insecure test key, enable HAB to use unique device key!\n"
		nxp  = "[    1.5] trusted_key: Using insecure test key, enable HAB to use unique device key!\n"
		zero = "[    1.5] trusted_key: Device neither in secure nor trusted mode!\n"
	)
	for _, tc := range []struct {
		kind, log, cmdline string
		weak               bool
	}{
		{kindCAAM, "", "quiet", false},
		{kindCAAM, "a\n" + caam + "b\n", "", true},
		{kindTagged, caam, "", true},
		{kindCAAM, strings.Repeat("x", 1<<17) + caam, "", true},
		{kindCAAM, zero, "", false},
		{kindDCP, zero, "", true},
		{kindDCP, nxp, "", true},
		{kindDCP, "", "quiet trusted.dcp_skip_zk_test=1", true},
		{kindDCP, "", "trusted.dcp_skip_zk_test", true},
		{kindDCP, "", "trusted.dcp_skip_zk_test=Y", true},
		{kindDCP, "", "trusted.dcp_skip_zk_test=0 trusted.dcp_use_otp_key=1", false},
		{kindTPM, caam + zero, "trusted.dcp_skip_zk_test=1", false},
		{kindEncrypted, caam + zero, "", false},
	} {
		if got := weaknessFrom(tc.kind, tc.log, tc.cmdline); (got != "") != tc.weak {
			t.Errorf("%s, cmdline %q: %q", tc.kind, tc.cmdline, got)
		}
	}
}

func TestParseSource(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "tpm": "tpm:0x81000001", "tpm:0x81000002": "tpm:0x81000002", "tpm:2164260866": "tpm:0x81000002", "caam": "caam", "dcp": "dcp",
		"tee": "tee", "tagged": "tagged", "encrypted:user:kmk": "encrypted:user:kmk", "encrypted:trusted:a:b": "encrypted:trusted:a:b",
	} {
		src, err := ParseSource(s)
		if err != nil || src.String() != want {
			t.Errorf("%q: %q, %v", s, src, err)
			continue
		}
		if back, err := ParseSource(src.String()); err != nil || back != src {
			t.Errorf("%q reads back as %q, %v", s, back, err)
		}
	}
	for _, s := range []string{
		"TPM", "tpm:", "tpm:1", "tpm:0x80000001", "tpm:0x82000000", "tpm:x", "tpm:0x81000001 pcrinfo=", "caam:", "caam:x", "encrypted", "encrypted:",
		"encrypted:kmk", "encrypted:user:", "encrypted:user:a b", "encrypted:user:a\x00", "encrypted:keyring:a", "encrypted:user:" + strings.Repeat("k", 129), "magic",
	} {
		if src, err := ParseSource(s); !errors.Is(err, ErrBadSource) {
			t.Errorf("%q gives %q, %v", s, src, err)
		}
	}
}

func TestDamagedSlots(t *testing.T) {
	k := chip{kind: kindCAAM}
	p := on(t, "caam", k)
	raw, err := p.Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		spoil func(b *blob)
		want  error
	}{
		"no source":      {func(b *blob) { b.Source = "" }, keys.ErrDamagedSlot},
		"unknown source": {func(b *blob) { b.Source = "enclave" }, keys.ErrDamagedSlot},
		"other cipher":   {func(b *blob) { b.Cipher = "null" }, keys.ErrDamagedSlot},
		"foreign cipher": {func(b *blob) { b.Cipher = cipherTagged.name }, keys.ErrDamagedSlot},
		"short sector":   {func(b *blob) { b.Sector = b.Sector[1:] }, keys.ErrDamagedSlot},
		"no sector":      {func(b *blob) { b.Sector = nil }, keys.ErrDamagedSlot},
		"no sealed key":  {func(b *blob) { b.Sealed = "" }, keys.ErrDamagedSlot},
		"options":        {func(b *blob) { b.Sealed += " keyhandle=0x81000002" }, keys.ErrDamagedSlot},
		"long":           {func(b *blob) { b.Sealed = strings.Repeat("00", maxSealed) }, keys.ErrDamagedSlot},
		"encrypted's":    {func(b *blob) { b.Source, b.Sealed = "encrypted:user:kmk", "default user:other 64 00" }, keys.ErrDamagedSlot},
		"first bit":      {func(b *blob) { b.Sector[0] ^= 1 }, keys.ErrWrongKey},
		"key bit":        {func(b *blob) { b.Sector[offKey] ^= 1 }, keys.ErrWrongKey},
		"last bit":       {func(b *blob) { b.Sector[sectorSize-1] ^= 0x80 }, keys.ErrWrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			var b blob
			if err := json.Unmarshal(raw, &b); err != nil {
				t.Fatal(err)
			}
			tc.spoil(&b)
			bad, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Unwrap(t.Context(), binding, bad); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := p.Unwrap(t.Context(), binding, []byte("{")); !errors.Is(err, keys.ErrDamagedSlot) {
		t.Error(err)
	}
	if d := p.Describe([]byte("{")); !strings.Contains(d.Detail, "damaged") {
		t.Errorf("described as %+v", d)
	}
}

// What add_key says, in words of this program.
func TestExplain(t *testing.T) {
	tpm, enc := Source{kind: kindTPM, handle: defaultHandle}, Source{kind: kindEncrypted, master: "user:kmk"}
	caam := Source{kind: kindCAAM}
	for _, tc := range []struct {
		src     Source
		payload string
		errno   unix.Errno
		want    error
		words   string
	}{
		{caam, newPayload(caam, cipherXTS), unix.ENODEV, ErrNoTrusted, "module not loaded"},
		{caam, newPayload(caam, cipherXTS), unix.EINVAL, ErrNoTrusted, "caam refused"},
		{caam, loadPayload(caam, "00"), unix.EINVAL, ErrOtherChip, "sealed by another caam"},
		{caam, loadPayload(caam, "00"), unix.ENODEV, ErrNoTrusted, "or no caam found"},
		{tpm, newPayload(tpm, cipherXTS), unix.EPERM, ErrNoTrusted, "storage key 0x81000001 may be missing"},
		{tpm, loadPayload(tpm, "00"), unix.EPERM, ErrOtherChip, "chip was cleared"},
		{enc, newPayload(enc, cipherXTS), unix.ENODEV, ErrNoTrusted, "CONFIG_ENCRYPTED_KEYS"},
		{enc, newPayload(enc, cipherXTS), unix.ENOKEY, ErrOtherChip, "master key user:kmk is not in"},
		{enc, loadPayload(enc, "default user:kmk 64 00"), unix.EINVAL, ErrOtherChip, "differs from the one at enrolment"},
		{tpm, newPayload(tpm, cipherXTS), unix.EDQUOT, unix.EDQUOT, "quota"},
		{tpm, newPayload(tpm, cipherXTS), unix.ENOMEM, unix.ENOMEM, ""},
	} {
		err := explain(tc.src, tc.payload, tc.errno)
		if !errors.Is(err, tc.want) || !errors.Is(err, tc.errno) || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s, %q, %v: %v", tc.src, tc.payload, tc.errno, err)
		}
	}
	for got, want := range map[string]string{
		newPayload(tpm, cipherXTS):                 "new 64 keyhandle=0x81000001",
		loadPayload(tpm, "00ff"):                   "load 00ff keyhandle=0x81000001",
		newPayload(caam, cipherCBC):                "new 32",
		newPayload(enc, cipherXTS):                 "new default user:kmk 64",
		loadPayload(enc, "default user:kmk 64 00"): "load default user:kmk 64 00",
	} {
		if got != want {
			t.Errorf("payload %q, want %q", got, want)
		}
	}
}

// The ioctl's numbers and structure, as a C compiler gives them from <linux/caam_keygen.h>.
func TestTaggedLayout(t *testing.T) {
	if keygenCreate != 0xc0384b00 || keygenImport != 0xc0384b01 {
		t.Errorf("requests %#x, %#x", keygenCreate, keygenImport)
	}
	if n := unsafe.Sizeof(keygenCmd{}); n != keygenSize {
		t.Errorf("the structure has %d bytes, want %d", n, keygenSize)
	}
	if maxBlackKey != 96 || maxBlob != 144 {
		t.Errorf("room for %d and %d", maxBlackKey, maxBlob)
	}
	if _, err := importTagged("", 36); !errors.Is(err, keys.ErrDamagedSlot) {
		t.Error(err)
	}
	if _, err := importTagged(strings.Repeat("00", maxBlob+1), 36); !errors.Is(err, keys.ErrDamagedSlot) {
		t.Error(err)
	}
	if key, err := taggedKey(make([]byte, maxBlackKey), 52, 36); err == nil || key != nil {
		t.Error("a key of another length was taken")
	}
	if got := said([]byte("Invalid key size.\n\x00rest")); got != "Invalid key size." {
		t.Errorf("the driver said %q", got)
	}
}

func FuzzParseBlob(f *testing.F) {
	for _, source := range []string{"caam", "dcp", "tagged", "encrypted:user:kmk", "tpm"} {
		src, err := ParseSource(source)
		if err != nil {
			f.Fatal(err)
		}
		kind := src.kind
		p := &Provider{source: src, log: slog.New(slog.NewTextHandler(io.Discard, nil)), kernel: chip{kind: kind}}
		raw, err := p.Wrap(f.Context(), binding, tierKey)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(raw))
	}
	f.Add([]byte(`{"source":"tpm","cipher":"aes-xts-plain64","sealed":"00 keyhandle=1"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		slot, src, c, err := parseBlob(raw)
		if err != nil {
			if !errors.Is(err, keys.ErrDamagedSlot) {
				t.Fatal(err)
			}
			return
		}
		// what goes to add_key(2) is one command and what it loads, and what goes into a dm table is known
		words := strings.Fields(loadPayload(src, slot.Sealed))
		want := map[string]int{kindTPM: 3, kindEncrypted: 5}[src.kind]
		if want == 0 {
			want = 2
		}
		if len(words) != want || words[0] != "load" || c.key == 0 || strings.ContainsAny(c.name, " \x00") {
			t.Fatalf("loads %q with cipher %v", words, c)
		}
	})
}
