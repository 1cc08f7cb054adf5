package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// adoptRun runs image adopt with an answer.
func adoptRun(t *testing.T, dir, answer string, args ...string) (status int, out, messages string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := func(name string) string {
		return map[string]string{"persist": dir, "key": "versatile", "tpm": "/nonexistent", "mounts": dir + "/m"}[name]
	}
	status = run(t.Context(), append([]string{"image", "adopt"}, args...), streams{strings.NewReader(answer), &stdout, &stderr}, env)
	return status, stdout.String(), stderr.String()
}

// addKeyByHand is cryptsetup luksAddKey, with the image's own passphrase.
func addKeyByHand(t *testing.T, im *image, key *keys.TierKey) {
	t.Helper()
	f, err := os.Open(im.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := key.Passphrase(h.Format(), im.kind, im.id, h.UUID())
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(t.TempDir(), "second")
	if err := os.WriteFile(second, []byte("a rescue passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cryptsetup", "luksAddKey", "--batch-mode", "--key-file", "-", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", im.path, second)
	cmd.Stdin = bytes.NewReader(pass)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// The verb shows what differs, asks, and does nothing without a yes; then the image is
// authentic again, and there is nothing left to adopt.
func TestImageAdopt(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 0)
	key, _ := openKey(t, dir)
	addLayer(t, dir, key, "abcd", layer.Sealed)
	addVolumes(t, dir, key)
	images, err := quietApp(dir).tierImages(persist.Vault)
	if err != nil || len(images) != 4 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	for _, im := range images {
		args := []string{"ab"}
		switch im.kind {
		case "volume":
			args = []string{"--volume", im.id}
		case "disk":
			continue // of format 1 here
		}
		if status, out, _ := adoptRun(t, dir, "", args...); status != statusOK || !strings.Contains(out, "nothing to adopt") {
			t.Errorf("%s: untouched: status %d, %s", im.Title(), status, out)
		}
		addKeyByHand(t, im, key)
		if err := im.Opens(t.Context(), key); !errors.Is(err, luks2.ErrNotAuthentic) {
			t.Fatalf("%s: after luksAddKey: %v", im.Title(), err)
		}
		for _, answer := range []string{"", "\n", "n\n", "yess\n"} {
			status, _, messages := adoptRun(t, dir, answer, args...)
			if status != statusFailed || !strings.Contains(messages, "keyslots.1.type added") || !strings.Contains(messages, im.path) {
				t.Errorf("%s: answer %q: status %d, %s", im.Title(), answer, status, messages)
			}
		}
		if err := im.Opens(t.Context(), key); !errors.Is(err, luks2.ErrNotAuthentic) {
			t.Fatalf("%s: without a yes: %v", im.Title(), err)
		}
		status, out, messages := adoptRun(t, dir, "", append(args, "--yes", "--json")...)
		var got adoption
		if err := json.Unmarshal([]byte(out), &got); err != nil || status != statusOK || !got.Adopted || len(got.Changes) < 5 || got.Path != im.path {
			t.Errorf("%s: status %d, %v, %s%s", im.Title(), status, err, out, messages)
		}
		if err := im.Opens(t.Context(), key); err != nil {
			t.Errorf("%s: adopted: %v", im.Title(), err)
		}
	}
	addKeyByHand(t, images[1], key)
	if status, out, _ := adoptRun(t, dir, "y\n", adoptArgs(images[1])...); status != statusOK || !strings.Contains(out, "adopted") {
		t.Errorf("with a yes: status %d, %s", status, out)
	}
	for want, args := range map[int][]string{statusUsage: {}, statusMissing: {"ffff"}} {
		if status, _, messages := adoptRun(t, dir, "", args...); status != want {
			t.Errorf("%q: status %d, want %d: %s", args, status, want, messages)
		}
	}
	if status, _, messages := adoptRun(t, dir, "", "--volume", "nosuch"); status != statusMissing {
		t.Errorf("no such volume: status %d: %s", status, messages)
	}
}

func adoptArgs(im *image) []string {
	if im.kind == layerKind {
		return []string{im.id}
	}
	return []string{"--volume", im.id}
}

// An image of format 1 is brought up by adopt.
func TestImageAdoptOldFormat(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 1)
	key, _ := openKey(t, dir)
	if status, _, messages := adoptRun(t, dir, "y\n", "layer0"); status != statusOK {
		t.Fatalf("status %d: %s", status, messages)
	}
	images, err := quietApp(dir).tierImages(persist.Vault)
	if err != nil {
		t.Fatal(err)
	}
	wantFormat(t, images[0], luks2.Format2)
	if err := images[0].Opens(t.Context(), key); err != nil {
		t.Error(err)
	}
}

func wantFormat(t *testing.T, im *image, want int) {
	t.Helper()
	f, err := os.Open(im.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if h, err := luks2.Read(f); err != nil || h.Format() != want {
		t.Errorf("%s: format %d, want %d, %v", im.Title(), h.Format(), want, err)
	}
}

// Images of format 1 are upgraded one by one, and rotated, mixed with those that are not
// yet; whatever stops it, the next run goes on.
func TestUpgradeImages(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 2)
	key, _ := openKey(t, dir)
	addVolumes(t, dir, key)
	images, err := quietApp(dir).tierImages(persist.Vault)
	if err != nil || len(images) != 5 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	for _, im := range images {
		for left := 0; ; left++ {
			b := &breaking{left: left, stop: func() error { return errors.New("cut short") }}
			im.wrap = func(f luks2.File) luks2.File { return breakingFile{f, b} }
			err := im.Upgrade(t.Context(), key)
			if openErr := im.Opens(t.Context(), key); openErr != nil {
				t.Fatalf("%s: cut short after %d: %v", im.Title(), left, openErr)
			}
			if err == nil {
				break
			}
		}
		wantFormat(t, im, luks2.Format2)
		if im.id == "layer1" {
			break // the rest stays as it is
		}
	}
	old, _ := openKey(t, dir)
	if err := rotateBreaking(t.Context(), dir, &breaking{left: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	next, _ := openKey(t, dir)
	checkImages(t, "rotated", dir, next, old, len(images))
}

// A volume that the list of its tier does not have, as one that was copied here, is refused
// with the words that take it in, and then used.
func TestImageAdoptUnlisted(t *testing.T) {
	dir := memoryDir(t)
	newVault(t, dir, 0)
	key, _ := openKey(t, dir)
	addVolumes(t, dir, key)
	list := persist.Layout{Root: dir}.VolumeList(persist.Vault)
	store := func(args ...string) (int, string) {
		var out bytes.Buffer
		env := func(name string) string {
			return map[string]string{"persist": dir, "key": "versatile", "tpm": "/nonexistent", "mounts": dir + "/m"}[name]
		}
		status := run(t.Context(), args, streams{strings.NewReader(""), &out, &out}, env)
		return status, out.String()
	}
	all, err := volume.List(t.Context(), persist.Layout{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(v volume.Volume) bool { return v.Name == "zclear" })
	if i < 0 {
		t.Fatalf("no volume zclear in %v", all)
	}
	id := all[i].ID().String()
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "mnt")
	if status, out := store("volume", "mount", id, at); status != statusDamaged || !strings.Contains(out, "image adopt") {
		t.Fatalf("unlisted: status %d: %s", status, out)
	}
	if status, _, text := adoptRun(t, dir, "no\n", "--volume", id); status != statusFailed || !strings.Contains(text, "zclear") {
		t.Errorf("no: status %d: %s", status, text)
	}
	if status, out, text := adoptRun(t, dir, "", "--volume", id, "--yes"); status != statusOK || !strings.Contains(out, "entered") {
		t.Fatalf("yes: status %d: %s%s", status, out, text)
	}
	if status, out := store("volume", "mount", "zclear", at); status != statusOK {
		t.Errorf("adopted: status %d: %s", status, out)
	}
	if status, out := store("volume", "umount", "zclear"); status != statusOK {
		t.Error(out)
	}
	if status, out, _ := adoptRun(t, dir, "", "--volume", id); status != statusOK || !strings.Contains(out, "nothing to adopt") {
		t.Errorf("again: status %d: %s", status, out)
	}
}
