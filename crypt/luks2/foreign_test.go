package luks2_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"layervault/crypt/luks2"
)

// quick are luksFormat options that keep cryptsetup from calibrating for seconds.
var quick = []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}

func luksFormat(t *testing.T, args ...string) *os.File {
	t.Helper()
	f := newImage(t)
	if err := f.Truncate(20 << 20); err != nil { // the default header takes 16 MiB
		t.Fatal(err)
	}
	if !slices.Contains(args, "--sector-size") {
		args = append(slices.Clone(args), "--sector-size", "512") // cryptsetup's default depends on the file system below
	}
	mustCryptsetup(t, append([]string{"luksFormat", "--type", "luks2", f.Name()}, args...)...)
	return f
}

func TestWeOpenCryptsetups(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want luks2.Segment
	}{
		{"default cipher", quick, luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
		{"xts 256", append([]string{"--key-size", "256"}, quick...), luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 32, SectorSize: 512}},
		{"essiv", append([]string{"--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--sector-size", "4096"}, quick...),
			luks2.Segment{Offset: 16 << 20, Cipher: "aes-cbc-essiv:sha256", KeySize: 32, SectorSize: 4096}},
		{"sha512", append([]string{"--hash", "sha512"}, quick...), luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
		{"sha1", append([]string{"--hash", "sha1"}, quick...), luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
		{"argon2id", []string{"--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"},
			luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
		{"argon2i", []string{"--pbkdf", "argon2i", "--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"},
			luks2.Segment{Offset: 16 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
		{"metadata 64k, data at 2 MiB", append([]string{"--luks2-metadata-size", "64k", "--offset", "4096"}, quick...),
			luks2.Segment{Offset: 2 << 20, Cipher: "aes-xts-plain64", KeySize: 64, SectorSize: 512}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := luksFormat(t, tt.args...)
			h := mustRead(t, f)
			if h.NeedsRepair() {
				t.Error(h.Damage())
			}
			if h.Segment() != tt.want {
				t.Errorf("segment %+v, want %+v", h.Segment(), tt.want)
			}
			key, _, err := h.Unlock(f, secret)
			if err != nil {
				t.Fatal(err)
			}
			wantVolumeKey(t, f, key)
			if _, _, err := h.Unlock(f, []byte("wrong")); !errors.Is(err, luks2.ErrNoKey) {
				t.Errorf("wrong passphrase: %v", err)
			}
			// Our slot in their header, then theirs removed by us.
			slot, err := h.AddSlot(f, key, []byte("ours"), luks2.RandomKeyKDF())
			if err != nil || slot != 1 {
				t.Fatalf("slot %d, %v", slot, err)
			}
			wantVolumeKey(t, f, key)
			if err := h.RemoveSlot(f, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := cryptsetup(t, "open", "--test-passphrase", f.Name()); err == nil {
				t.Error("cryptsetup still opens with the removed passphrase")
			}
			if got, _, err := mustRead(t, f).Unlock(f, []byte("ours")); err != nil || !bytes.Equal(got, key) {
				t.Error(err)
			}
		})
	}
}

// wantVolumeKey compares with the volume key that cryptsetup finds.
func wantVolumeKey(t *testing.T, f *os.File, key []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	mustCryptsetup(t, "luksDump", "--dump-volume-key", "--volume-key-file", path, f.Name())
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, key) {
		t.Error("cryptsetup has another volume key")
	}
}

// TestCryptsetupChangesOurs lets cryptsetup do to our image everything it can do
// without device-mapper, and reads the result.
func TestCryptsetupChangesOurs(t *testing.T) {
	f := newImage(t)
	h, key := mustFormat(t, f, luks2.Params{Label: "layer", Subsystem: "vault", Flags: []string{luks2.FlagNoReadWorkqueue, luks2.FlagNoWriteWorkqueue}})
	if dump := mustCryptsetup(t, "luksDump", f.Name()); !strings.Contains(dump, "no-read-workqueue no-write-workqueue") || !strings.Contains(dump, "vault") {
		t.Errorf("flags or subsystem are not in:\n%s", dump)
	}
	if id := strings.TrimSpace(mustCryptsetup(t, "luksUUID", f.Name())); id != h.UUID() {
		t.Errorf("UUID %q, want %q", id, h.UUID())
	}
	second := filepath.Join(t.TempDir(), "second")
	if err := os.WriteFile(second, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, append([]string{"luksAddKey", f.Name(), second}, quick...)...)
	if err := h.RemoveSlot(f, 0); !errors.Is(err, luks2.ErrStale) {
		t.Errorf("changing a header that cryptsetup changed: %v", err)
	}
	h = mustRead(t, f)
	if got, slot, err := h.Unlock(f, []byte("second")); err != nil || slot != 1 || !bytes.Equal(got, key) {
		t.Errorf("slot %d, %v", slot, err)
	}
	mustCryptsetup(t, "config", "--label", "renamed", "--subsystem", "vault", f.Name())
	token := filepath.Join(t.TempDir(), "token.json")
	text := `{"type":"others","keyslots":["1"],"blob":"AAA/</>","nested":{"big":18446744073709551615,"list":[1.50,null,true]}}`
	if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "token", "import", "--json-file", token, "--token-id", "3", f.Name())
	mustCryptsetup(t, "luksRemoveKey", f.Name()) // slot 0
	h = mustRead(t, f)
	if h.Label() != "renamed" || h.Subsystem() != "vault" || len(h.Slots()) != 1 || h.NeedsRepair() {
		t.Errorf("label %q, subsystem %q, %d slots, %v", h.Label(), h.Subsystem(), len(h.Slots()), h.Damage())
	}
	if _, err := h.AddSlot(f, key, secret, fastArgon); err != nil { // a rewrite by us keeps the token
		t.Fatal(err)
	}
	tokens, err := mustRead(t, f).Tokens()
	if err != nil || len(tokens) != 1 || tokens[0].ID != 3 || tokens[0].Type != "others" || !slices.Equal(tokens[0].KeySlots, []int{1}) {
		t.Fatalf("%+v, %v", tokens, err)
	}
	for _, part := range []string{`"blob":"AAA/</>"`, `"big":18446744073709551615`, `[1.50,null,true]`} {
		if !bytes.Contains(tokens[0].JSON, []byte(part)) {
			t.Errorf("%s is missing in %s", part, tokens[0].JSON)
		}
	}
	mustCryptsetup(t, "open", "--test-passphrase", f.Name())
	mustCryptsetup(t, "luksErase", f.Name())
	if _, _, err := mustRead(t, f).Unlock(f, secret); !errors.Is(err, luks2.ErrNoKey) {
		t.Errorf("after luksErase: %v", err)
	}
}

func TestTokens(t *testing.T) {
	f := newImage(t)
	h, _ := mustFormat(t, f, luks2.Params{})
	id, err := h.SetToken(f, -1, json.RawMessage(`{"type":"layervault","keyslots":["0"],"x":"ü"}`))
	if err != nil || id != 0 {
		t.Fatalf("id %d, %v", id, err)
	}
	if got := mustCryptsetup(t, "token", "export", "--token-id", "0", f.Name()); !strings.Contains(got, `"x":"ü"`) {
		t.Errorf("cryptsetup exports %s", got)
	}
	for _, bad := range []string{``, `null`, `[]`, `{}`, `{"type":"x"}`, `{"type":"x","keyslots":["7"]}`, `{"type":"x","keyslots":[0]}`, `{"type":"x","keyslots":[]} {}`} {
		if _, err := h.SetToken(f, -1, json.RawMessage(bad)); err == nil {
			t.Errorf("token %q is taken", bad)
		}
	}
	huge, _ := json.Marshal(map[string]any{"type": "x", "keyslots": []string{}, "pad": strings.Repeat("x", 12<<10)})
	if _, err := h.SetToken(f, -1, huge); !errors.Is(err, luks2.ErrNoRoom) {
		t.Errorf("huge token: %v", err)
	}
	if err := h.RemoveToken(f, 1); !errors.Is(err, luks2.ErrNoSlot) {
		t.Errorf("removing token 1: %v", err)
	}
	if err := h.RemoveToken(f, 0); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "open", "--test-passphrase", f.Name())
}
