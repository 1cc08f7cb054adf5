//go:build guest

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// The whole ring is another's, or an older one; the TPM is the guest's own.
func TestEvilMaidRing(t *testing.T) {
	victim := newMaid(t, "key=tpm")
	victim.whole = true
	victim.volume("db", "size=16M")
	victim.volume("safe", "size=16M")
	t.Cleanup(func() {
		out, err := run(context.Background(), "env", append(victim.env, "layervault", "key", "unpin")...)
		if err != nil {
			t.Errorf("unpin: %v\n%s", err, out)
		}
	})
	paper := filepath.Join(t.TempDir(), "paper")
	contains(t, "status", victim.must("status"), "TPM has a record of this key ring")
	older := t.TempDir()
	sh(t, `cp "$1"/keyring.json* "$2"`, filepath.Join(victim.persist, "vault"), older)
	victim.must("key", "enroll", "recovery", "--recovery-key-out", paper)
	victim.must("key", "enroll", "recovery", "--recovery-key-out", paper+"2", "--label", "removed")
	removed := sh(t, `env "$@" layervault key list --json | jq -r '.slots[] | select(.label == "removed") | .id'`, victim.env...)
	sh(t, `cp "$1"/keyring.json* "$2"/..; cp "$1"/keyring.json "$2/with.json"; cp "$1"/keyring.json.bak "$2/with.json.bak"`, filepath.Join(victim.persist, "vault"), older)
	victim.must("key", "remove", removed)
	victim.keep()

	// ring puts a ring in place, as its attacker made it.
	ring := func(from string) {
		sh(victim.T, `for f in keyring.json keyring.json.bak; do cp "$1/$f" "$2/$f"; done`, from, filepath.Join(victim.persist, "vault"))
	}
	software := newMaid(t, "key=versatile", "tpm=/nonexistent")
	software.volume("db", "size=16M")
	contains(t, "status without a TPM", software.must("status"), "an older ring cannot be detected")
	sealed := func(pcrs string) *maid {
		m := newMaid(t, "key=tpm", "pcrs="+pcrs, "anchor=none")
		m.volume("db", "size=16M")
		return m
	}
	weak, few, same := sealed("none"), sealed("7"), sealed("0-4,6-9,12-14")
	edit := func(change func(file, ring map[string]json.RawMessage)) {
		for _, name := range []string{"keyring.json", "keyring.json.bak"} {
			path := filepath.Join(victim.persist, "vault", name)
			data, err := os.ReadFile(path)
			must(victim.T, err)
			var file, body map[string]json.RawMessage
			must(victim.T, json.Unmarshal(data, &file))
			must(victim.T, json.Unmarshal(file["ring"], &body))
			change(file, body)
			file["ring"] = text(victim.T, body)
			sum := sha256.Sum256(file["ring"])
			file["checksum"] = text(victim.T, "sha256:"+hex.EncodeToString(sum[:]))
			must(victim.T, os.WriteFile(path, text(victim.T, file), 0o600))
		}
	}
	slots := func(change func(slots []json.RawMessage) []json.RawMessage) func(_, ring map[string]json.RawMessage) {
		return func(_, ring map[string]json.RawMessage) {
			var all []json.RawMessage
			must(victim.T, json.Unmarshal(ring["slots"], &all))
			ring["slots"] = text(victim.T, change(all))
		}
	}
	// takes is the control: with a setting that lets the attack pass, the vault opens to it.
	takes := func(settings ...string) {
		out, err := try(victim.T, "env", slices.Concat(victim.env, settings, []string{"layervault", "status"})...)
		if err != nil {
			victim.Errorf("the control with %s: %v\n%s", settings, err, out)
		}
	}
	for _, c := range []struct {
		name   string
		words  []string
		attack func()
	}{
		{"foreign ring with a key file", []string{"weaker than the settings require", "versatile"}, func() {
			ring(filepath.Join(software.persist, "vault"))
			sh(victim.T, `cp "$1/versatile.key" "$2"`, software.persist, victim.persist)
			takes("key=versatile", "tpm=/nonexistent")
		}},
		{"foreign ring sealed to no PCRs", []string{"weaker than the settings require"}, func() {
			ring(filepath.Join(weak.persist, "vault"))
			takes("pcrs=none", "anchor=none")
		}},
		{"foreign ring sealed to fewer PCRs", []string{"weaker than the settings require", "pcrs"}, func() {
			ring(filepath.Join(few.persist, "vault"))
			takes("pcrs=7", "anchor=none")
		}},
		{"foreign ring sealed to the same PCRs", []string{"key ring was replaced by another ring"}, func() {
			ring(filepath.Join(same.persist, "vault"))
			takes("anchor=none")
		}},
		{"older ring", []string{"key ring was replaced by an older one"}, func() { ring(older) }},
		{"ring with the removed slot", []string{"key ring was replaced by an older one"}, func() {
			sh(victim.T, `cp "$1/with.json" "$2/keyring.json"; cp "$1/with.json.bak" "$2/keyring.json.bak"`, older, filepath.Join(victim.persist, "vault"))
		}},
		{"label edited", []string{"changed without its key", `"mine") was changed`}, func() {
			edit(slots(func(all []json.RawMessage) []json.RawMessage {
				var slot map[string]json.RawMessage
				must(victim.T, json.Unmarshal(all[0], &slot))
				slot["label"] = json.RawMessage(`"mine"`)
				all[0] = text(victim.T, slot)
				return all
			}))
		}},
		{"slot taken out", []string{"changed without its key"}, func() {
			edit(slots(func(all []json.RawMessage) []json.RawMessage { return all[:1] }))
		}},
		{"slot planted", []string{"changed without its key", "versatile"}, func() {
			data, err := os.ReadFile(filepath.Join(software.persist, "vault/keyring.json"))
			must(victim.T, err)
			var theirs struct {
				Ring struct{ Slots []json.RawMessage }
			}
			must(victim.T, json.Unmarshal(data, &theirs))
			edit(slots(func(all []json.RawMessage) []json.RawMessage { return append(all, theirs.Ring.Slots[0]) }))
		}},
		{"floor lowered", []string{"changed without its key"}, func() {
			edit(func(_, ring map[string]json.RawMessage) { ring["floor"] = json.RawMessage("1") })
		}},
		{"MACs taken away", []string{"MACs are missing"}, func() {
			edit(func(file, _ map[string]json.RawMessage) { delete(file, "macs") })
		}},
		{"version 1", []string{"wrong key for this slot"}, func() {
			edit(func(file, ring map[string]json.RawMessage) {
				file["version"] = json.RawMessage("1")
				delete(file, "macs")
				delete(ring, "floor")
				delete(ring, "anchor")
			})
		}},
		{"ring gone", []string{"keyring.json"}, func() { sh(victim.T, `rm "$1"/vault/keyring.json*`, victim.persist) }},
	} {
		victim.attack(c.name, "db", c.words, c.attack)
	}

	t.Run("no vault at all", func(t *testing.T) {
		victim.T = t
		victim.restore()
		sh(t, `mv "$1/vault" "$1/away"`, victim.persist)
		victim.refused([]string{"TPM recorded ring", "key unpin"}, "volume", "create", "new")
		if out, err := trySh(t, `ls "$1"/vault/keyring.json "$1"/vault/keyring.json.bak 2>/dev/null`, victim.persist); err == nil || out != "" {
			t.Errorf("a ring was made: %s", out)
		}
		victim.restore()
		victim.opens("db", "db's secret")
	})
	t.Run("interposer on the TPM", func(t *testing.T) {
		victim.T = t
		victim.restore()
		evil := interpose(t)
		before := victim.sums()
		words := []string{"response names key", "computed name is"}
		victim.refused(words, "volume", "mount", "db", victim.at("db"), "--tpm", evil.path)
		victim.refused(words, "key", "enroll", "tpm", "--recovery-key-file", paper, "--anchor", "none", "--tpm", evil.path)
		if evil.swapped() == 0 {
			t.Error("no storage key went past the interposer")
		}
		if evil.salted() != 0 {
			t.Error("a session was salted for the interposer")
		}
		victim.unchanged(before)
		victim.opens("db", "db's secret")
	})
}

// text is JSON.
func text(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

// interposer sits between the processor and the TPM: it puts the point of a key of its own
// in place of the storage key's, and keeps the name that the TPM tells.
type interposer struct {
	path string
	mu   sync.Mutex
	swap int // storage keys that were changed
	salt int // sessions that were salted
}

func (e *interposer) swapped() int { e.mu.Lock(); defer e.mu.Unlock(); return e.swap }
func (e *interposer) salted() int  { e.mu.Lock(); defer e.mu.Unlock(); return e.salt }

func interpose(t *testing.T) *interposer {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	e := &interposer{path: filepath.Join(t.TempDir(), "tpm.sock")}
	l, err := net.Listen("unix", e.path)
	must(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				if err := e.relay(c, key.PublicKey().Bytes()); err != nil {
					t.Errorf("interposer: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return e
}

// relay passes commands and answers on: 2 bytes of tag, 4 of size, 4 of code (TPM 2.0 part 1,
// section 18).
func (e *interposer) relay(c net.Conn, point []byte) error {
	const (
		createPrimary    = 0x131
		startAuthSession = 0x176
	)
	// Not os.OpenFile: that would not wait for the answer.
	chip, err := unix.Open("/dev/tpmrm0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(chip)
	for {
		head := make([]byte, 10)
		if _, err := io.ReadFull(c, head); err != nil {
			return nil // the caller is done
		}
		command := append(head, make([]byte, binary.BigEndian.Uint32(head[2:])-10)...)
		if _, err := io.ReadFull(c, command[10:]); err != nil {
			return err
		}
		if _, err := unix.Write(chip, command); err != nil {
			return err
		}
		reply := make([]byte, 4096)
		n, err := unix.Read(chip, reply)
		if err != nil {
			return err
		}
		reply = reply[:n]
		ok := binary.BigEndian.Uint32(reply[6:]) == 0
		switch code := binary.BigEndian.Uint32(head[6:]); {
		case ok && code == createPrimary:
			if err := e.change(reply, point); err != nil {
				return err
			}
		case code == startAuthSession && binary.BigEndian.Uint32(command[10:]) != uint32(tpm2.TPMRHNull):
			e.mu.Lock()
			e.salt++
			e.mu.Unlock()
		}
		if _, err := c.Write(reply); err != nil {
			return nil // the caller hung up
		}
	}
}

// change puts the point in place of the one that a CreatePrimary answered.
func (e *interposer) change(reply, point []byte) error {
	const public = 10 + 4 + 4 // header, handle, size of the parameters
	area, err := tpm2.Unmarshal[tpm2.TPM2BPublic](reply[public:])
	if err != nil {
		return err
	}
	contents, err := area.Contents()
	if err != nil {
		return err
	}
	was, err := contents.Unique.ECC()
	if err != nil {
		return err
	}
	for _, part := range [][2][]byte{{was.X.Buffer, point[1:33]}, {was.Y.Buffer, point[33:]}} {
		i := bytes.Index(reply, part[0])
		if i < 0 || len(part[0]) != 32 {
			return fmt.Errorf("the point is not where it should be")
		}
		copy(reply[i:], part[1])
	}
	e.mu.Lock()
	e.swap++
	e.mu.Unlock()
	return nil
}
