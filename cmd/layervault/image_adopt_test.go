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

	"layervault/advice"
	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
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
func addKeyByHand(t *testing.T, im *vault.Image, key *keys.TierKey) {
	t.Helper()
	f, err := os.Open(im.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := key.Passphrase(h.Format(), im.Kind, im.ID, h.UUID())
	if err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(t.TempDir(), "second")
	if err := os.WriteFile(second, []byte("a rescue passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cryptsetup", "luksAddKey", "--batch-mode", "--key-file", "-", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", im.Path, second)
	cmd.Stdin = bytes.NewReader(pass)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// The verb shows what differs, asks, and does nothing without a yes; then the image is
// authentic again, and there is nothing left to adopt.
func TestImageAdopt(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 0)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddLayer(t, dir, key, "abcd", layer.Sealed, luks2.Format2)
	vaulttest.AddVolumes(t, dir, key)
	images, err := vaulttest.Contents(dir).Images()
	if err != nil || len(images) != 4 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	for _, im := range images {
		if im.Kind != "disk" { // of format 1 here
			adoptImage(t, dir, key, im)
		}
	}
	addKeyByHand(t, images[1], key)
	if status, out, _ := adoptRun(t, dir, "y\n", adoptArgs(images[1])...); status != advice.StatusOK || !strings.Contains(out, "adopted") {
		t.Errorf("with a yes: status %d, %s", status, out)
	}
	for want, args := range map[int][]string{advice.StatusUsage: {}, advice.StatusMissing: {"ffff"}} {
		if status, _, messages := adoptRun(t, dir, "", args...); status != want {
			t.Errorf("%q: status %d, want %d: %s", args, status, want, messages)
		}
	}
	if status, _, messages := adoptRun(t, dir, "", "--volume", "nosuch"); status != advice.StatusMissing {
		t.Errorf("no such volume: status %d: %s", status, messages)
	}
}

// adoptImage changes the header of an image by hand, and adopts it.
func adoptImage(t *testing.T, dir string, key *keys.TierKey, im *vault.Image) {
	t.Helper()
	args := []string{"ab"}
	if im.Kind == "volume" {
		args = adoptArgs(im)
	}
	if status, out, _ := adoptRun(t, dir, "", args...); status != advice.StatusOK || !strings.Contains(out, "nothing to adopt") {
		t.Errorf("%s: untouched: status %d, %s", im.Title(), status, out)
	}
	addKeyByHand(t, im, key)
	if err := im.Opens(t.Context(), key); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Fatalf("%s: after luksAddKey: %v", im.Title(), err)
	}
	for _, answer := range []string{"", "\n", "n\n", "yess\n"} {
		status, _, messages := adoptRun(t, dir, answer, args...)
		if status != advice.StatusFailed || !strings.Contains(messages, "keyslots.1.type added") || !strings.Contains(messages, im.Path) {
			t.Errorf("%s: answer %q: status %d, %s", im.Title(), answer, status, messages)
		}
	}
	if err := im.Opens(t.Context(), key); !errors.Is(err, luks2.ErrNotAuthentic) {
		t.Fatalf("%s: without a yes: %v", im.Title(), err)
	}
	status, out, messages := adoptRun(t, dir, "", append(args, "--yes", "--json")...)
	var got adoption
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != advice.StatusOK || !got.Adopted || len(got.Changes) < 5 || got.Path != im.Path {
		t.Errorf("%s: status %d, %v, %s%s", im.Title(), status, err, out, messages)
	}
	if err := im.Opens(t.Context(), key); err != nil {
		t.Errorf("%s: adopted: %v", im.Title(), err)
	}
}

func adoptArgs(im *vault.Image) []string {
	if im.Kind == "layer" {
		return []string{im.ID}
	}
	return []string{"--volume", im.ID}
}

// An image of format 1 is brought up by adopt.
func TestImageAdoptOldFormat(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 1)
	key, _ := vaulttest.Open(t, dir)
	if status, _, messages := adoptRun(t, dir, "y\n", "layer0"); status != advice.StatusOK {
		t.Fatalf("status %d: %s", status, messages)
	}
	images, err := vaulttest.Contents(dir).Images()
	if err != nil {
		t.Fatal(err)
	}
	if h := vaulttest.Header(t, images[0].Path); h.Format() != luks2.Format2 {
		t.Errorf("format %d", h.Format())
	}
	if err := images[0].Opens(t.Context(), key); err != nil {
		t.Error(err)
	}
}

// A volume that the list of its tier does not have, as one that was copied here, is refused
// with the words that take it in, and then used.
func TestImageAdoptUnlisted(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 0)
	key, _ := vaulttest.Open(t, dir)
	vaulttest.AddVolumes(t, dir, key)
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
	if status, out := store("volume", "mount", id, at); status != advice.StatusDamaged || !strings.Contains(out, "image adopt") {
		t.Fatalf("unlisted: status %d: %s", status, out)
	}
	if status, _, text := adoptRun(t, dir, "no\n", "--volume", id); status != advice.StatusFailed || !strings.Contains(text, "zclear") {
		t.Errorf("no: status %d: %s", status, text)
	}
	if status, out, text := adoptRun(t, dir, "", "--volume", id, "--yes"); status != advice.StatusOK || !strings.Contains(out, "added to the list") {
		t.Fatalf("yes: status %d: %s%s", status, out, text)
	}
	if status, out := store("volume", "mount", "zclear", at); status != advice.StatusOK {
		t.Errorf("adopted: status %d: %s", status, out)
	}
	if status, out := store("volume", "umount", "zclear"); status != advice.StatusOK {
		t.Error(out)
	}
	if status, out, _ := adoptRun(t, dir, "", "--volume", id); status != advice.StatusOK || !strings.Contains(out, "nothing to adopt") {
		t.Errorf("again: status %d: %s", status, out)
	}
}
