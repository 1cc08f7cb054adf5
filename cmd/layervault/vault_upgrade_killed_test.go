//go:build !race

// Each kill starts this test's binary, which takes seconds with the race detector; the
// suite kills runs these without.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"layervault/crypt/luks2"
	"layervault/keys"
	"layervault/keys/flags"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/vault/vaulttest"
)

// upgradeChildEnv holds the folder in which a child of TestUpgradeKilled upgrades.
const upgradeChildEnv = "LAYERVAULT_TEST_UPGRADE"

// TestUpgradeChild is what TestUpgradeKilled starts; by itself it has nothing to do.
func TestUpgradeChild(t *testing.T) {
	dir := os.Getenv(upgradeChildEnv)
	if dir == "" {
		return
	}
	if status := run(t.Context(), []string{"--persist", dir, "vault", "upgrade", "--mounts", filepath.Join(dir, "mounts")}, streams{os.Stdin, os.Stdout, os.Stderr}, versatileChosen); status != 0 {
		t.Fatalf("status %d", status)
	}
}

// upgradeKills is how often TestUpgradeKilled kills; KILLS in the environment says another
// number (make test-long).
const upgradeKills = 25

// TestUpgradeKilled kills upgrades of a vault with tens of images at random moments, each
// vault until one comes to its end. After each kill every image opens with the key of its
// tier, and every record is its key's or one of format 1; at the end nothing of format 1 is
// left.
func TestUpgradeKilled(t *testing.T) {
	kills := upgradeKills
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	frozen := oldVaultWith(t, 30)
	all, _ := checkUpgrade(t, frozen, "before")
	whole := time.Now()
	if killUpgrade(t, copyOf(t, frozen), 0) {
		t.Fatal("killed without being told to")
	}
	lasts := time.Since(whole)
	rng := rand.New(rand.NewPCG(2026, 10))
	killed, halfway, ended := 0, 0, 0
	for killed < kills {
		dir := copyOf(t, frozen)
		for {
			died := killUpgrade(t, dir, 1+time.Duration(rng.Int64N(int64(lasts))))
			old, floor := checkUpgrade(t, dir, fmt.Sprintf("after %d kills", killed))
			if !died {
				if ended++; old != 0 || floor != 2 {
					t.Fatalf("came to its end with %d of format 1, floor %d", old, floor)
				}
				break
			}
			if killed++; floor == 1 && old != 0 && old != all {
				halfway++
			}
			if floor == 2 && old != 0 {
				t.Fatalf("after %d kills: floor 2, and %d of format 1", killed, old)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills within %s, %d of them left a vault of both formats; %d vaults came to their end", killed, lasts, halfway, ended)
	if halfway == 0 {
		t.Error("no kill came in the middle")
	}
}

// killUpgrade upgrades in a child, which is killed after a while; 0 for not at all.
func killUpgrade(t *testing.T, dir string, after time.Duration) (died bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestUpgradeChild$")
	cmd.Env = append(os.Environ(), upgradeChildEnv+"="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // of one that ended: no harm
		defer timer.Stop()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true
	}
	t.Fatalf("%v: %s", err, &out)
	return false
}

// oldVaultWith is the frozen vault with more layers.
func oldVaultWith(t *testing.T, layers int) string {
	dir := vaulttest.Dir(t)
	if err := vaulttest.Unpack(dir); err != nil {
		t.Fatal(err)
	}
	key, _ := vaulttest.Open(t, dir)
	for i := range layers {
		vaulttest.AddLayer(t, dir, key, fmt.Sprintf("more%d", i), []layer.Kind{layer.Sealed, layer.Writable}[i%2], luks2.Format1)
	}
	return dir
}

func copyOf(t *testing.T, dir string) string {
	to := vaulttest.Dir(t)
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "--sparse=always", dir+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// checkUpgrade wants everything to open, and says how much is of format 1, and the lowest
// floor.
func checkUpgrade(t *testing.T, dir, when string) (old, floor int) {
	t.Helper()
	a := quietApp(dir)
	for tier, count := range map[persist.Tier]int{persist.Vault: 35, persist.Unsealed: 1} {
		cfg := a.tierKeys(tier, settings{key: "versatile", providers: flags.Set{Fixed: keys.Values{"tpm": "/nonexistent"}}}, nil)
		key, ring, _, err := unlock.Open(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		source := unlock.NewSource(cfg, key)
		f, err := vault.Survey(t.Context(), a.contents(tier), source)
		if err != nil || len(f.Problems) > 0 || f.Images != count {
			t.Fatalf("%s: %s: %d images, %v, %v", when, tier, f.Images, f.Problems, err)
		}
		images, err := a.contents(tier).Images()
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range images {
			if err := im.Opens(t.Context(), key); err != nil {
				t.Fatalf("%s: %s: %v", when, im.Title(), err)
			}
		}
		old += f.Old()
		if floor == 0 || ring.Floor() < floor {
			floor = ring.Floor()
		}
		if err := source.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return old, floor
}
