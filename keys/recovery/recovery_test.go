package recovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"layervault/keys"
)

var (
	binding = keys.Binding{RingID: "ring", SlotID: "slot", Provider: Name}
	tierKey = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

func wrap(t *testing.T, kind TextKind, text []byte) json.RawMessage {
	t.Helper()
	raw, err := New(kind, text).Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSlots(t *testing.T) {
	key, other, words := Generate(), Generate(), []byte("twelve words or so")
	keySlot, wordSlot := wrap(t, KindKey, key), wrap(t, KindPassphrase, words)
	for name, tc := range map[string]struct {
		slot  json.RawMessage
		typed []byte
		want  error
	}{
		"key":              {keySlot, key, nil},
		"passphrase":       {wordSlot, words, nil},
		"another key":      {keySlot, other, ErrBadRecovery},
		"words for a key":  {keySlot, words, ErrBadRecovery},
		"wrong words":      {wordSlot, []byte("twelve words or sO"), ErrBadRecovery},
		"nothing":          {keySlot, nil, keys.ErrNeedsPerson},
		"no JSON":          {json.RawMessage("["), key, keys.ErrDamagedSlot},
		"unknown kind":     {json.RawMessage(`{"kind":"dance"}`), key, keys.ErrDamagedSlot},
		"no parameters":    {json.RawMessage(`{"kind":"passphrase"}`), words, keys.ErrDamagedSlot},
		"too much memory":  {json.RawMessage(`{"kind":"passphrase","argon2":{"salt":"AAAAAAAAAAAAAAAAAAAAAA==","time":1,"memory_kib":4294967295,"lanes":1}}`), words, keys.ErrDamagedSlot},
		"moved from there": {bytes.Replace(keySlot, []byte(`"sealed":"`), []byte(`"sealed":"AAAA`), 1), key, keys.ErrDamagedSlot},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Typed(tc.typed).Unwrap(t.Context(), binding, tc.slot)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if tc.want == nil && !bytes.Equal(got, tierKey) {
				t.Fatal("another key came back")
			}
		})
	}
	if bytes.Contains(keySlot, key[:8]) || bytes.Contains(wordSlot, words) {
		t.Error("the secret is in the slot")
	}
	raw, err := Decode(key)
	if err != nil {
		t.Fatal(err)
	}
	sheet, err := hint(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := Typed(nil).Describe(keySlot); !d.Person || d.Detail != "key "+sheet {
		t.Errorf("described as %+v, hint %s", d, sheet)
	}
}

func TestShortPassphraseIsRefused(t *testing.T) {
	if _, err := New(KindPassphrase, []byte("elevenchars")).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrBadRecovery) {
		t.Fatalf("got %v", err)
	}
}
