//go:build guest

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// slotMemory bounds the control group below; the person's slot wants twice as much.
const slotMemory = 64 << 20

// A person's key slot of argon2id, preferred to ours, wants twice the memory that there is, and
// nothing of ours tries it: the header is taken in, the volume mounted, its key rotated, and a
// plugin starts, all in a control group of 64 MiB; the person's slot stays. (Reported was a
// slot of 512 MiB on a machine with 256; deriving that takes minutes in the guest.)
func TestForeignSlotMemory(t *testing.T) {
	m := newMaid(t, "key=versatile", "size=1G")
	m.must("volume", "create", "-o", "size=24M", "vol")
	m.write("vol", "vol's secret")
	var row volumeRow
	must(t, json.Unmarshal([]byte(m.must("volume", "show", "--json", "vol")), &row))
	dir := t.TempDir()
	pass, person := filepath.Join(dir, "pass"), filepath.Join(dir, "person")
	sh(t, `f="$1"; shift; env "$@" layervault volume key vol 2>/dev/null >"$f"`, append([]string{pass}, m.env...)...)
	must(t, os.WriteFile(person, []byte("a person's secret"), 0o600))
	sh(t, `cryptsetup luksAddKey -q --pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 131072 --pbkdf-parallel 1 --key-file "$2" "$1" "$3"
		cryptsetup config --key-slot 1 --priority prefer "$1"`, row.Path, pass, person)

	// The control: trying it takes more than there is.
	if cost := sh(t, `cryptsetup luksDump --dump-json-metadata "$1" | jq '.keyslots["1"].kdf.memory * 1024'`, row.Path); cost != strconv.Itoa(2*slotMemory) {
		t.Fatalf("the person's slot takes %s bytes, want %d", cost, 2*slotMemory)
	}

	cgroup := memoryGroup(t)
	must(t, os.WriteFile(filepath.Join(cgroup, "memory.max"), []byte(strconv.Itoa(slotMemory)), 0))
	small := func(args ...string) string {
		t.Helper()
		out, err := try(t, "bash", slices.Concat([]string{"-c", `echo 0 >"$0/cgroup.procs" && exec env "$@"`, cgroup}, m.env, []string{"layervault"}, args)...)
		if err != nil {
			t.Errorf("layervault %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	small("image", "adopt", "--yes", "--volume", "vol")
	mounted := func() {
		t.Helper()
		small("volume", "mount", "vol", m.at("vol"))
		if got, err := os.ReadFile(filepath.Join(m.at("vol"), "file")); err != nil || string(got) != "vol's secret" {
			t.Errorf("the volume shows %q (%v)", got, err)
		}
		small("volume", "umount", "vol")
	}
	mounted()
	small("key", "rotate")
	mounted()
	p := m.serve(cgroup)
	p.init()
	mounted()
	p.stop()
	if n := oomKills(t, cgroup); n != 0 {
		t.Errorf("the kernel killed %d processes for their memory", n)
	}
	if peak, err := os.ReadFile(filepath.Join(cgroup, "memory.peak")); err == nil {
		t.Logf("the largest memory was %s bytes", strings.TrimSpace(string(peak)))
	}
	sh(t, `cryptsetup open --test-passphrase --key-slot 1 --key-file "$2" "$1"`, row.Path, person)
}
