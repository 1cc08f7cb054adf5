//go:build guest

package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/keys/unlock"
)

// The keys that are known.
const (
	tierKeyName    = "tier key"
	passphraseName = "passphrase of an image"
	volumeKeyName  = "volume key of an image"
)

// knownKeys are the secrets that the search looks for, each in the forms in which a
// program may have written it.
type knownKeys struct {
	forms []form
	// heads has the first two bytes of each form: with it, a search for all of them takes one
	// look at each place, and an emulated machine gets through a disk.
	heads [1 << 16]bool
}

type form struct {
	name string
	text []byte
}

// add takes a key of full entropy: half of it is enough to be found by.
func (k *knownKeys) add(name string, key []byte) {
	for _, text := range [][]byte{
		bytes.Clone(key[:16]), bytes.Clone(key[len(key)-16:]),
		hex.AppendEncode(nil, key), bytes.ToUpper(hex.AppendEncode(nil, key)),
		// the last characters depend on what follows the key
		base64.StdEncoding.AppendEncode(nil, key)[:len(key)], base64.RawURLEncoding.AppendEncode(nil, key)[:len(key)],
	} {
		k.forms = append(k.forms, form{name, text})
		k.heads[head(text, 0)] = true
	}
}

func head(data []byte, at int) uint16 { return uint16(data[at])<<8 | uint16(data[at+1]) }

// only is the search for one of the keys.
func (k *knownKeys) only(name string) *knownKeys {
	one := &knownKeys{}
	for _, f := range k.forms {
		if f.name == name {
			one.forms = append(one.forms, f)
			one.heads[head(f.text, 0)] = true
		}
	}
	return one
}

// in names the key that is in data, "" for none.
func (k *knownKeys) in(data []byte) string {
	for at := range len(data) - 1 {
		if !k.heads[head(data, at)] {
			continue
		}
		for _, f := range k.forms {
			if bytes.HasPrefix(data[at:], f.text) {
				return f.name
			}
		}
	}
	return ""
}

// longest is how much of one block must be read again with the next.
const longest = 256

// search reads r in blocks.
func (k *knownKeys) search(r io.Reader) (string, error) {
	buf := make([]byte, 4<<20)
	kept := 0
	for {
		n, err := io.ReadFull(r, buf[kept:])
		if name := k.in(buf[:kept+n]); name != "" {
			return name, nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return "", err
		}
		kept = copy(buf, buf[len(buf)-longest:])
	}
}

// searchFile reads what a file holds, without its holes: images are sparse.
func (k *knownKeys) searchFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return "", nil // no more
		}
		if err != nil {
			return "", err
		}
		end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return "", err
		}
		name, err := k.search(io.NewSectionReader(f, data, end-data))
		if name != "" || err != nil {
			return name, err
		}
		at = end
	}
}

// vaultKeys opens the vault as the plugin does and takes its keys: the tier key, and
// passphrase and volume key of an image.
func vaultKeys(t *testing.T, image string) *knownKeys {
	t.Helper()
	known := &knownKeys{}
	key, _, _, err := unlock.Open(t.Context(), unlock.Config{Tier: vault, Looking: true})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if err := key.Lend(func(raw []byte) error { known.add(tierKeyName, raw); return nil }); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := key.Passphrase(h.Format(), "layer", filepath.Base(filepath.Dir(image)), h.UUID())
	if err != nil {
		t.Fatal(err)
	}
	volume, _, err := h.Unlock(f, pass)
	if err != nil {
		t.Fatal(err)
	}
	known.add(volumeKeyName, volume)
	raw, err := hex.DecodeString(string(pass))
	if err != nil {
		t.Fatal(err)
	}
	known.add(passphraseName, raw)
	return known
}

// The keys of the vault are known to the test and searched for, after all that a vault's life
// does with them: in each file of the host that layervault or docker could have written, in
// every command line and environment, in the logs, in the device-mapper's tables, and in the
// plugin's memory, where the tier key may only be in pages that are locked and not dumped.
func TestKeysOutOfSight(t *testing.T) {
	if !encrypted() {
		return
	}
	recovery := testRing(t)
	const master = "e2e-sight"
	sh(t, `head -c 32 /dev/urandom | keyctl padd user "$1" @u >/dev/null`, master)
	t.Cleanup(func() { _, _ = run(context.Background(), "keyctl", "purge", "user", master) })
	sh(t, `layervault key enroll trusted --source "encrypted:user:$1" --label kernel; layervault key enroll versatile
		layervault key backup /persist/e2e-backup
		openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | openssl pkey -pubout > /run/e2e-keeper.pub
		layervault key escrow export --to /run/e2e-keeper.pub /persist/e2e-parcel`, master)
	t.Cleanup(func() {
		for _, name := range []string{"/persist/e2e-backup", "/persist/e2e-parcel", "/run/e2e-keeper.pub"} {
			_ = os.Remove(name)
		}
	})
	stop(t)
	sh(t, `layervault key rotate --carry "$1"; layervault key reseal; layervault key recover --recovery-key-file "$1"`, recovery)
	start(t)
	sh(t, `printf 'FROM busybox\nRUN echo built > /built\n' | DOCKER_BUILDKIT=0 docker build -q --network none -t sight:1 - >/dev/null
		docker run -d --name insight --network none sight:1 sleep 3600 >/dev/null`)
	t.Cleanup(func() {
		_, _ = tryDocker(t, "rm", "-f", "insight")
		_, _ = tryDocker(t, "rmi", "sight:1")
	})
	known := vaultKeys(t, imageFile(t, "sight:1"))

	// that the search finds, in files and across blocks
	decoy := filepath.Join(t.TempDir(), "decoy")
	raw := known.forms[0].text
	for name, data := range map[string][]byte{
		"as it is":          raw,
		"at a block's edge": append(make([]byte, 4<<20-8), raw...),
		"in hex":            known.forms[2].text,
	} {
		if err := os.WriteFile(decoy, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := known.searchFile(decoy); found != tierKeyName || err != nil {
			t.Fatalf("the search does not find a key %s: %q, %v", name, found, err)
		}
	}
	if err := os.Remove(decoy); err != nil {
		t.Fatal(err)
	}

	t.Run("files", func(t *testing.T) { filesWithout(t, known, "/persist", "/run", "/var/log", "/etc", "/tmp", "/root") })
	t.Run("processes", func(t *testing.T) { processesWithout(t, known) })
	t.Run("kernel", func(t *testing.T) {
		for _, command := range []string{"dmsetup table --showkeys", "dmsetup ls --tree", "cat /proc/keys /proc/mounts", "dmesg", "docker info", "docker inspect insight sight:1",
			"layervault status --json", "layervault key list --json", "layervault image list --json", "docker plugin inspect layervault"} {
			if name := known.in([]byte(sh(t, command))); name != "" {
				t.Errorf("the %s is in what %q prints", name, command)
			}
		}
	})
	t.Run("memory", func(t *testing.T) { memoryLocked(t, known) })
}

// filesWithout searches every regular file below the folders, on the file systems where
// they are: a container's files are seen through decryption.
func filesWithout(t *testing.T, known *knownKeys, folders ...string) {
	t.Helper()
	files := 0
	for _, folder := range folders {
		var top unix.Stat_t
		if err := unix.Stat(folder, &top); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // went away meanwhile
			}
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if unix.Lstat(path, &st) != nil {
				return nil
			}
			if e.IsDir() && st.Dev != top.Dev {
				return fs.SkipDir
			}
			if !e.Type().IsRegular() || st.Dev != top.Dev { // namespaces that are bound to files, among others
				return nil
			}
			files++
			name, err := known.searchFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if name != "" {
				t.Errorf("the %s is in %s", name, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files searched", files)
	if files < 100 {
		t.Error("the search saw hardly any file")
	}
}

func processesWithout(t *testing.T, known *knownKeys) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/*")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range names {
		switch filepath.Base(path) {
		case "cmdline", "environ", "comm":
		default:
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		seen++
		if name := known.in(data); name != "" {
			t.Errorf("the %s is in %s", name, path)
		}
	}
	if seen < 30 {
		t.Errorf("%d files of processes were read", seen)
	}
}

// mapping is a range of a process's memory.
type mapping struct {
	from, to uint64
	perms    string
	name     string
	flags    []string // VmFlags of smaps
}

func (m mapping) has(flag string) bool {
	for _, f := range m.flags {
		if f == flag {
			return true
		}
	}
	return false
}

func mappings(t *testing.T, pid int) []mapping {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []mapping
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if from, to, ok := strings.Cut(f[0], "-"); ok && !strings.HasSuffix(f[0], ":") {
			m := mapping{perms: f[1]}
			var err1, err2 error
			m.from, err1 = strconv.ParseUint(from, 16, 64)
			m.to, err2 = strconv.ParseUint(to, 16, 64)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if len(f) > 5 {
				m.name = f[5]
			}
			out = append(out, m)
			continue
		}
		if f[0] == "VmFlags:" {
			out[len(out)-1].flags = f[1:]
		}
	}
	return out
}

// memoryLocked looks for the keys in all memory of the plugin. The tier key must be there, in
// pages that are never swapped ("lo") and not in core dumps ("dd"); passphrases and volume
// keys belong to the kernel once an image is open.
func memoryLocked(t *testing.T, known *knownKeys) {
	t.Helper()
	pid, err := pluginPID()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	hits, total := 0, uint64(0)
	for _, m := range mappings(t, pid) {
		if !strings.HasPrefix(m.perms, "r") || m.name == "[vvar]" || m.name == "[vsyscall]" || m.name == "[vvar_vclock]" {
			continue
		}
		total += m.to - m.from
		for _, name := range []string{tierKeyName, passphraseName, volumeKeyName} {
			found, err := known.only(name).search(io.NewSectionReader(mem, int64(m.from), int64(m.to-m.from)))
			switch {
			case err != nil:
				t.Fatalf("memory at %#x (%s %s): %v", m.from, m.perms, m.name, err)
			case found == "":
			case name == tierKeyName && m.has("lo") && m.has("dd"):
				hits++
			default:
				t.Errorf("the %s is in memory at %#x to %#x (%s %s), flags %v: it may be swapped out or dumped", name, m.from, m.to, m.perms, m.name, m.flags)
			}
		}
	}
	t.Logf("%d KiB of memory searched, the tier key is in %d locked places", total>>10, hits)
	if hits == 0 {
		t.Error("the tier key is nowhere in the plugin: the search saw nothing")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), "VmLck:\t       0 kB") {
		t.Error("nothing of the plugin's memory is locked")
	}
}
