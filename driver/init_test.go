package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/internal/authentic"
	"layervault/layer"
	"layervault/layer/layertest"
	"layervault/persist"
)

// The formats on disk are frozen: what was written once stays readable.
func TestFrozenInit(t *testing.T) {
	want := savedInit{Version: 1, Options: Options{
		Home: "/var/lib/docker/layervault", Opts: []string{"layervault.size=20G"}, UIDMaps: []user.IDMap{{ID: 0, ParentID: 100000, Count: 65536}},
	}}
	for _, name := range []string{"v1.json", "v2.json"} {
		data, err := os.ReadFile(filepath.Join("testdata/init", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeInit(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version == 2 {
			if err := got.authentic(layertest.Keys{}); err != nil {
				t.Error(err)
			}
			if again, err := got.seal(layertest.Keys{}); err != nil || !bytes.Equal(again, data) {
				t.Errorf("written as %s, %v", again, err)
			}
			got.Version, got.MAC = 1, ""
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// A record that this program does not know in full is refused, and its file named.
func TestStrictInit(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"options":{"home":"/h"}}`:           "",
		`{"version":3,"options":{"home":"/h"},"later":1}`: "knows up to 2",
		`{"options":{"home":"/h"}}`:                       "unknown format version 0",
		`{"version":1,"options":{"home":"/h","later":1}}`: "unknown field",
		`{"version":1,"options":{"home":"/h"}} {}`:        "trailing data",
		`{"version":1,`:            "unexpected EOF",
		strings.Repeat(" ", 2<<20): "too long",
	} {
		_, err := decodeInit("/vault/driver.json", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), "/vault/driver.json: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func FuzzInit(f *testing.F) {
	for _, name := range []string{"v1.json", "v2.json"} {
		data, err := os.ReadFile(filepath.Join("testdata/init", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		saved, err := decodeInit(initFile, data)
		if err != nil {
			return
		}
		if len(saved.MAC) != 64 && saved.authentic(layertest.Keys{}) == nil {
			t.Errorf("authentic with the code %q", saved.MAC)
		}
	})
}

// forge points a record at another home: as somebody without the key may write it, with the error
// that each text must give, and as a value that can still be sealed.
func forge(t *testing.T, good []byte, home string) (saved savedInit, texts map[string]error) {
	t.Helper()
	if err := json.Unmarshal(good, &saved); err != nil {
		t.Fatal(err)
	}
	saved.Options.Home = home
	forged, err := json.Marshal(saved)
	if err != nil {
		t.Fatal(err)
	}
	old, err := json.Marshal(savedInit{Version: 1, Options: saved.Options})
	if err != nil {
		t.Fatal(err)
	}
	return saved, map[string]error{string(forged): authentic.ErrForged, string(old): authentic.ErrOldFormat}
}

// Somebody who has no key points the driver at another home: directories would be made, and
// emptied, there.
func TestEvilMaidInit(t *testing.T) {
	dir := t.TempDir()
	home, elsewhere := filepath.Join(dir, "home"), filepath.Join(dir, "elsewhere")
	cfg := Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, Scratch: filepath.Join(dir, "scratch"),
		Unlock:       func(context.Context) (crypt.KeySource, error) { return layertest.Keys{}, nil },
		Devices:      func(crypt.KeySource) layer.Devices { return layertest.Devices },
		SweepDevices: func(context.Context) error { return nil },
	}
	start := func() (*Driver, error) {
		d := New(cfg)
		t.Cleanup(func() { _ = d.Close(context.Background()) })
		return d, d.Resume(t.Context())
	}
	d := New(cfg)
	if err := d.Init(t.Context(), Options{Home: home}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := d.initPath()
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err = start()
	if err != nil || d.up == nil || d.up.home != home {
		t.Fatalf("as it was: %v", err)
	}
	_ = d.Close(t.Context())

	saved, forgeries := forge(t, good, elsewhere)
	for text, want := range forgeries {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := start()
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "restart dockerd") {
			t.Errorf("started with %s: %v", text, err)
		}
		if _, err := os.Stat(elsewhere); err == nil {
			t.Error("made the other home")
		}
		// dockerd's own word is believed.
		if err := d.Init(t.Context(), Options{Home: home}); err != nil {
			t.Error(err)
		}
		_ = d.Close(t.Context())
	}
	// The control: the same change by somebody who has the key.
	sealed, err := saved.seal(layertest.Keys{})
	if err := errors.Join(err, os.WriteFile(name, sealed, 0o600)); err != nil {
		t.Fatal(err)
	}
	if d, err = start(); err != nil || d.up.home != elsewhere {
		t.Errorf("the control: %v", err)
	}
	_ = d.Close(t.Context())

	// A rotation of the tier key takes it along.
	next := layertest.Keys{Other: "next"}
	for range 2 {
		if err := Records(cfg.Layout, persist.Vault)[0].Rekey(layertest.Keys{}, next); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Unlock = func(context.Context) (crypt.KeySource, error) { return next, nil }
	if d, err = start(); err != nil || d.up.home != elsewhere {
		t.Errorf("after a rotation: %v", err)
	}
}
