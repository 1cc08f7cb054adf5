//go:build guest

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/persist"
	"layervault/volume"
	"layervault/volume/volumetest"
)

// sequences is how many the model test does on images that are not encrypted: the host does
// more.
const sequences = 2

// TestEncryptedVolumes is the suite on dm-crypt.
func TestEncryptedVolumes(t *testing.T) {
	volumetest.Run(t, volumetest.Backend{Many: 100, Sequences: 40, Grows: true})
}

func config(dir string) volume.Config {
	return volume.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, Mounts: filepath.Join(dir, "mounts"), Scratch: filepath.Join(dir, "scratch"),
		Keys: volumetest.OpenKeys, DefaultSize: 64 << 20,
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) *volume.Store {
	t.Helper()
	s, err := volume.Open(t.Context(), config(dir))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func sh(t testing.TB, stdin []byte, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", command, args, err, out)
	}
	return string(out)
}

func create(t testing.TB, s *volume.Store, name string, opts map[string]string) volume.Volume {
	t.Helper()
	r, err := volume.ParseOptions(opts)
	must(t, err)
	v, err := s.Create(t.Context(), name, r)
	must(t, err)
	return v
}

// noDevices waits until the kernel has no device of ours.
func noDevices(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out := sh(t, nil, "dmsetup", "ls")
		if !strings.Contains(out, "layervault-") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %s", out)
		}
	}
}

// Stock cryptsetup reads the token, opens the image, and finds the file; nothing of it is
// on the disk in the clear.
func TestCryptsetupOpensVolumes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	const canary = "a word that nobody else writes: ooVahqu4eitha6ie"
	v := create(t, s, "stock", map[string]string{"size": "32M", "cipher": "aes-cbc-essiv:sha256", "sector": "512"})
	at, err := s.Mount(t.Context(), "stock", "1")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte(canary), 0o600))
	must(t, s.Unmount(t.Context(), "stock", "1"))
	noDevices(t)
	raw, err := os.ReadFile(v.Path)
	must(t, err)
	if bytes.Contains(raw, []byte(canary[:16])) {
		t.Error("the image holds what was written to the volume")
	}
	dump := sh(t, nil, "cryptsetup", "luksDump", v.Path)
	for _, want := range []string{volume.TokenType, "aes-cbc-essiv:sha256"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump does not say %q:\n%s", want, dump)
		}
	}
	if token := sh(t, nil, "cryptsetup", "token", "export", "--token-id", "0", v.Path); !strings.Contains(token, `"name":"stock"`) {
		t.Errorf("token: %s", token)
	}
	uuid := strings.TrimSpace(sh(t, nil, "cryptsetup", "luksUUID", v.Path))
	pass, err := volumetest.Keys{}.Passphrase(2, crypt.KindVolume, v.ID().String(), uuid)
	must(t, err)
	sh(t, pass, "cryptsetup", "open", "--key-file", "-", v.Path, "stock-opens")
	mnt := t.TempDir()
	node := strings.TrimSpace(sh(t, nil, "bash", "-c", `echo /dev/dm-$(dmsetup info -c --noheadings -o minor stock-opens)`))
	sh(t, nil, "mount", node, mnt)
	got, err := os.ReadFile(filepath.Join(mnt, "diff/file"))
	if err != nil || string(got) != canary {
		t.Errorf("read %q, %v", got, err)
	}
	must(t, unix.Unmount(mnt, 0))
	sh(t, nil, "cryptsetup", "close", "stock-opens")
}

// What a power cut leaves of a volume that was being written to is mended when it is next
// mounted: everything that was synced is there.
func TestUncleanStop(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v := create(t, s, "cut", map[string]string{"size": "64M"})
	at, err := s.Mount(t.Context(), "cut", "1")
	must(t, err)
	for i := range 20 {
		f, err := os.Create(filepath.Join(at, fmt.Sprintf("synced-%d", i)))
		must(t, err)
		_, err = f.WriteString("safe")
		must(t, errors.Join(err, f.Sync(), f.Close()))
	}
	// The image as it is now, with a journal to replay, is what the cut leaves.
	there := t.TempDir()
	to := config(there).Layout.Volumes(persist.Vault)
	must(t, os.MkdirAll(to, 0o700))
	sh(t, nil, "cp", "--sparse=always", v.Path, to)
	sh(t, nil, "cp", config(dir).Layout.VolumeList(persist.Vault), config(there).Layout.VolumeList(persist.Vault))
	must(t, s.Unmount(t.Context(), "cut", "1"))
	noDevices(t) // the copy has the same LUKS UUID
	after := open(t, there)
	at, err = after.Mount(t.Context(), "cut", "1")
	must(t, err)
	for i := range 20 {
		got, err := os.ReadFile(filepath.Join(at, fmt.Sprintf("synced-%d", i)))
		if err != nil || string(got) != "safe" {
			t.Errorf("file %d: %q, %v", i, got, err)
		}
	}
	must(t, after.Unmount(t.Context(), "cut", "1"))
	noDevices(t)
}

// helperEnv makes this program work on one volume until it is killed.
const helperEnv = "VOLUME_TEST_HELPER"

func init() {
	if dir := os.Getenv(helperEnv); dir != "" {
		fmt.Fprintln(os.Stderr, helper(dir))
		os.Exit(1)
	}
}

func helper(dir string) error {
	ctx := context.Background()
	s, err := volume.Open(ctx, config(dir))
	if err != nil {
		return err
	}
	fmt.Println("begin")
	for i := 0; ; i++ {
		r, err := volume.ParseOptions(map[string]string{"size": "32M"})
		if err != nil {
			return err
		}
		if _, err := s.Create(ctx, "victim", r); err != nil {
			return err
		}
		at, err := s.Mount(ctx, "victim", fmt.Sprint(i))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "file"), []byte("x"), 0o600); err != nil {
			return err
		}
		if err := s.Unmount(ctx, "victim", fmt.Sprint(i)); err != nil {
			return err
		}
		if i%2 == 1 {
			if _, err := s.Purge(ctx, "victim", volume.Options{}); err != nil {
				return err
			}
			if err := s.Remove(ctx, "victim"); err != nil {
				return err
			}
		}
	}
}

// A process that is killed at any moment leaves a volume that is whole, or none, and
// nothing that stays open or half made once the next process has started.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	outcome := map[string]int{}
	for range 25 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), helperEnv+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if _, err := io.ReadFull(out, make([]byte, len("begin\n"))); err != nil {
			_ = cmd.Wait()
			t.Fatalf("the helper ended: %v: %s", err, stderr.String())
		}
		timer := time.AfterFunc(rand.N(3*time.Second), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		if strings.Contains(stderr.String(), "volume") {
			t.Fatalf("the helper failed: %s", stderr.String())
		}
		s := open(t, dir)
		must(t, crypt.Sweep(t.Context())) // as the plugin does when it starts
		must(t, s.Heal(t.Context()))
		all, err := s.List(t.Context())
		must(t, err)
		for _, v := range all {
			if v.Damage != nil {
				t.Fatal(v.Damage)
			}
		}
		// A program that was being started at the moment of the kill has the image, and its
		// lock, until it is executed.
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			left, err := filepath.Glob(filepath.Join(dir, "persist/vault/volumes/.*.tmp-*"))
			must(t, err)
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("left: %v", left)
			}
			must(t, crypt.SweepDir(t.Context(), filepath.Join(dir, "persist/vault/volumes"))) // as the next start would
		}
		outcome[fmt.Sprintf("%d generations", len(all))]++
		if _, err := s.GC(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			must(t, s.Close())
			continue
		}
		at, err := s.Mount(t.Context(), "victim", "after")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(at, "file"), []byte("y"), 0o600))
		must(t, s.Unmount(t.Context(), "victim", "after"))
		// What the dead process mounted counts as docker's, which never unmounted it.
		must(t, s.Remove(t.Context(), "victim"))
		must(t, s.Close())
	}
	t.Log(outcome)
	for _, d := range []string{"mounts", "scratch", "persist/vault/volumes"} {
		entries, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v", d, entries, err)
		}
	}
	noDevices(t)
}
