package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/user"

	"layervault/layer"
	"layervault/layer/layertest"
)

// oldStore is a store as an earlier version left it: records of format 1 only.
func oldStore(t *testing.T) (layer.Config, []string) {
	cfg := config(t)
	s := open(t, cfg)
	ctx := t.Context()
	must(t, s.Create(ctx, "base", "", layer.CreateOptions{}))
	_, err := s.Import(ctx, "base", bytes.NewReader(emptyTar), user.IdentityMapping{})
	must(t, err)
	must(t, s.Create(ctx, "c-init", "base", layer.CreateOptions{ReadWrite: true}))
	must(t, s.Create(ctx, "c", "c-init", layer.CreateOptions{ReadWrite: true, SizeLimit: 1 << 30}))
	must(t, s.Create(ctx, "fresh", "base", layer.CreateOptions{}))
	ids, err := s.IDs()
	must(t, err)
	must(t, s.Close(ctx))
	for _, id := range ids {
		name := filepath.Join(cfg.Root, id, "layer.json")
		data, err := os.ReadFile(name)
		must(t, err)
		r, err := layer.DecodeRecord(id, data)
		must(t, err)
		r.Version, r.MAC, r.ParentUUID = 1, "", ""
		if r.Kind == layer.Writable {
			r.UUID = ""
		}
		data, err = r.Encode()
		must(t, err)
		must(t, os.WriteFile(name, data, 0o600))
	}
	return cfg, ids
}

// Records of format 1 are read while the vault was not upgraded, and not a day longer; what
// is written is of format 2.
func TestFloor(t *testing.T) {
	cfg, ids := oldStore(t)
	cfg.Keys = layertest.Keys{Old: true}
	s := open(t, cfg)
	for _, id := range ids {
		if r, err := s.Get(id); err != nil || r.Version != 1 {
			t.Errorf("%s: %+v, %v", id, r, err)
		}
	}
	_, err := s.MakeWritable(t.Context(), "fresh", layer.CreateOptions{})
	must(t, err)
	if r, err := s.Get("fresh"); err != nil || r.Version != 2 || r.UUID == "" {
		t.Errorf("written as %+v, %v", r, err)
	}
	cfg.Keys = layertest.Keys{}
	s = reopen(t, s, cfg)
	for _, id := range ids {
		if _, err := s.Get(id); id != "fresh" && !errors.Is(err, layer.ErrOldFormat) {
			t.Errorf("%s: %v", id, err)
		}
	}
	_, err = s.Get("fresh")
	must(t, err)
}

// An upgrade that is cut short at any step leaves a store that opens, and is finished by
// the next one. Afterwards nothing of format 1 is left, and each record says what the disk
// has.
func TestUpgrade(t *testing.T) {
	broken := errors.New("the power went")
	for cut := range 5 {
		cfg, ids := oldStore(t)
		cfg.Keys = layertest.Keys{Old: true}
		n := 0
		cfg.Checkpoint = func(op, _, _ string) error {
			if n++; op == "upgrade" && n > cut {
				return broken
			}
			return nil
		}
		s := open(t, cfg)
		_, err := s.Upgrade(t.Context(), nil)
		if cut < len(ids) && !errors.Is(err, broken) {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		cfg.Checkpoint = nil
		s = reopen(t, s, cfg)
		for _, id := range ids {
			if _, err := s.Chain(id); err != nil {
				t.Errorf("cut after %d: %v", cut, err)
			}
		}
		seen := 0
		_, err = s.Upgrade(t.Context(), func(done, total int, _ string) {
			if seen++; done != seen || total != len(ids) {
				t.Errorf("progress %d of %d", done, total)
			}
		})
		must(t, err)
		if old, err := s.Old(t.Context()); old != 0 || err != nil {
			t.Errorf("%d left, %v", old, err)
		}
		cfg.Keys = layertest.Keys{}
		s = reopen(t, s, cfg)
		chain, err := s.Chain("c")
		must(t, err)
		if got := fmt.Sprint(chain[0].UUID, chain[0].ParentUUID, chain[1].UUID, chain[1].ParentUUID, chain[2].UUID); got !=
			"uuid-of-c"+"uuid-of-c-init"+"uuid-of-c-init"+"uuid-of-base"+"uuid-of-base" {
			t.Errorf("the chain says %s", got)
		}
	}
}

// A rotation of the tier key: each record is of the old key or of the new one at all times.
func TestRekey(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	must(t, s.Create(t.Context(), "a", "", layer.CreateOptions{}))
	must(t, s.Create(t.Context(), "old", "", layer.CreateOptions{}))
	must(t, s.Close(t.Context()))
	data, err := os.ReadFile("testdata/records/v1-fresh.json")
	must(t, err)
	data = bytes.Replace(bytes.Replace(data, []byte(`"f0"`), []byte(`"old"`), 1), []byte(`"b0"`), []byte(`"a"`), 1)
	must(t, os.WriteFile(filepath.Join(cfg.Root, "old", "layer.json"), data, 0o600))
	next := layertest.Keys{Other: "next"}
	for range 2 { // once more is nothing new
		must(t, layer.RekeyRecord(cfg.Root, "a", cfg.Keys, next))
		must(t, layer.CheckRecord(cfg.Root, "a", next))
		if err := layer.CheckRecord(cfg.Root, "a", cfg.Keys); !errors.Is(err, layer.ErrForged) {
			t.Errorf("still of the old key: %v", err)
		}
	}
	if err := layer.RekeyRecord(cfg.Root, "a", cfg.Keys, layertest.Keys{Other: "third"}); !errors.Is(err, layer.ErrForged) {
		t.Errorf("took over what is of neither key: %v", err)
	}
	for _, id := range []string{"old", "gone"} { // no authentication, and no record
		must(t, layer.CheckRecord(cfg.Root, id, next))
		must(t, layer.RekeyRecord(cfg.Root, id, cfg.Keys, next))
	}
	cfg.Keys = next
	_, err = open(t, cfg).Get("a")
	must(t, err)
}
