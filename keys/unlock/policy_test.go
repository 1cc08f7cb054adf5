package unlock

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/recovery"
	"layervault/keys/trusted"
	"layervault/keys/versatile"
)

// willing is a provider whose slots always open.
type willing struct {
	name string
	soft bool
}

func (w willing) Name() string { return w.name }
func (w willing) Wrap(context.Context, keys.Binding, []byte) (json.RawMessage, error) {
	return json.RawMessage("{}"), nil
}
func (w willing) Unwrap(context.Context, keys.Binding, json.RawMessage) ([]byte, error) {
	return make([]byte, keys.KeySize), nil
}
func (w willing) Describe(json.RawMessage) keys.Description {
	return keys.Description{Software: w.soft}
}
func (w willing) Patience() time.Duration { return time.Hour }

// A slot of software alone opens where the setting names its provider, and when slots are
// only looked at without a setting; hardware and persons need no such word.
func TestSoftwareSlots(t *testing.T) {
	for _, tc := range []struct {
		slot    willing
		setting string
		looking bool
		want    error
	}{
		{willing{versatile.Name, true}, "versatile", false, nil},
		{willing{versatile.Name, true}, "tpm", false, keys.ErrWeakSlot},
		{willing{versatile.Name, true}, "tpm", true, keys.ErrWeakSlot},
		{willing{versatile.Name, true}, "", false, keys.ErrWeakSlot},
		{willing{versatile.Name, true}, "", true, nil},
		{willing{agent.Name, false}, "agent", false, nil},
		{willing{agent.Name, false}, "versatile", false, keys.ErrWeakSlot},
		{willing{agent.Name, false}, "", false, keys.ErrWeakSlot},
		{willing{trusted.Name, true}, "trusted", false, nil},
		{willing{trusted.Name, true}, "tpm", false, keys.ErrWeakSlot},
		{willing{trusted.Name, true}, "", false, keys.ErrWeakSlot},
		{willing{trusted.Name, false}, "tpm", false, nil},
		{willing{trusted.Name, false}, "", false, nil},
		{willing{recovery.Name, true}, "tpm", false, nil},
	} {
		cfg := Config{Provider: tc.setting, Looking: tc.looking}
		kind, ok := KindNamed(tc.slot.name)
		if !ok {
			t.Fatalf("no kind %s", tc.slot.name)
		}
		p := cfg.guard(kind, tc.slot)
		if _, err := p.Unwrap(t.Context(), keys.Binding{}, json.RawMessage("{}")); !errors.Is(err, tc.want) {
			t.Errorf("%s (software %v), key=%s, looking %v: %v", tc.slot.name, tc.slot.soft, tc.setting, tc.looking, err)
		}
		if w, ok := p.(interface{ Patience() time.Duration }); !ok || w.Patience() != time.Hour {
			t.Errorf("%s lost its patience", tc.slot.name)
		}
	}
	if _, err := (Config{Set: keys.Values{"pcrs": "99"}}).Providers(); err == nil {
		t.Error("a setting that makes no sense is taken")
	}
}
