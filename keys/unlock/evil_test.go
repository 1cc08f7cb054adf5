package unlock

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"layervault/keys"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/tpm/swtpmtest"
	"layervault/keys/versatile"
)

// sealedVault is a vault of a machine with a TPM, and its recovery key.
func sealedVault(t *testing.T, chip *swtpmtest.TPM, pcrs string) (cfg Config, paper []byte) {
	t.Helper()
	cfg = Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"pcrs": pcrs, "tpm": chip.Socket}}
	key, ring, err := OpenOrCreate(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if !ring.Anchored() {
		t.Fatal("the TPM does not remember the ring")
	}
	paper = recovery.Generate()
	if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, paper), ""); err != nil {
		t.Fatal(err)
	}
	return cfg, paper
}

// files of a tier's keys, as somebody copies them.
func files(t *testing.T, cfg Config) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, path := range []string{cfg.RingPath(), cfg.RingPath() + ".bak"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(path)] = data
	}
	return out
}

func put(t *testing.T, cfg Config, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(cfg.Tier, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// opened opens without a person and says how it ended.
func opened(t *testing.T, cfg Config) error {
	t.Helper()
	key, _, _, err := Open(t.Context(), cfg)
	if err == nil {
		err = key.Close()
	}
	return err
}

// A foreign ring with a key file beside it does not open a vault of key=tpm, nor one whose
// setting names nothing. The control: where the setting names the provider, it opens.
func TestForeignKeyFile(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	victim, _ := sealedVault(t, chip, tpm.DefaultPCRs)
	attacker := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "versatile", Set: keys.Values{"tpm": "/nonexistent"}}
	open(t, attacker)
	put(t, victim, files(t, attacker))
	keyFile, err := os.ReadFile(versatile.Path(attacker.Tier, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(versatile.Path(victim.Tier, ""), keyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, provider := range []string{"tpm", "", "agent", "trusted"} {
		victim.Provider = provider
		if err := opened(t, victim); !errors.Is(err, keys.ErrWeakSlot) {
			t.Errorf("key=%s: %v", provider, err)
		}
	}
	victim.Provider, victim.Set = "versatile", victim.Set.With("tpm", "/nonexistent")
	if err := opened(t, victim); err != nil {
		t.Fatalf("control: %v", err)
	}
}

// Who has the machine seals a key of his own under its TPM: to no PCRs, to fewer than the
// setting says, and to the right ones, whose values are no secret. The TPM remembers the
// ring that was there. The control, each time: without the check it opens.
func TestForeignSealedRing(t *testing.T) {
	for _, tc := range []struct {
		name, pcrs string
		want       error
		control    func(*Config)
	}{
		{"no PCRs", "none", keys.ErrWeakSlot, func(c *Config) { c.Set, c.NoAnchor = c.Set.With("pcrs", "none"), true }},
		{"fewer PCRs", "7", keys.ErrWeakSlot, func(c *Config) { c.Set, c.NoAnchor = c.Set.With("pcrs", "7"), true }},
		{"the same PCRs", tpm.DefaultPCRs, keys.ErrOtherRing, func(c *Config) { c.NoAnchor = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			chip := swtpmtest.Start(t).Boot()
			victim, _ := sealedVault(t, chip, tpm.DefaultPCRs)
			attacker := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"pcrs": tc.pcrs, "tpm": chip.Socket}, NoAnchor: true}
			open(t, attacker)
			put(t, victim, files(t, attacker))
			err := opened(t, victim)
			if !errors.Is(err, tc.want) || !errors.Is(err, keys.ErrLocked) {
				t.Fatalf("got %v", err)
			}
			// Without a setting no PCRs are not taken either.
			if tc.pcrs == "none" {
				loose := victim
				loose.Set, loose.NoAnchor = loose.Set.With("pcrs", ""), true
				if err := opened(t, loose); !errors.Is(err, keys.ErrWeakSlot) {
					t.Fatalf("without a setting: %v", err)
				}
			}
			tc.control(&victim)
			if err := opened(t, victim); err != nil {
				t.Fatalf("control: %v", err)
			}
		})
	}
}

// A slot of the vault itself that is sealed to less than the setting says: refused, opened
// by the recovery key, and as strong as it should be after sealing it anew.
func TestLeastPCRs(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg, paper := sealedVault(t, chip, "7")
	for least, want := range map[string]error{
		"7": nil, "none": nil, "": nil, "sha384:7": nil, "4,7": keys.ErrWeakSlot, tpm.DefaultPCRs: keys.ErrWeakSlot,
	} {
		cfg.Set = cfg.Set.With("pcrs", least)
		if err := opened(t, cfg); !errors.Is(err, want) {
			t.Errorf("pcrs=%s: %v", least, err)
		}
	}
	cfg.Set, cfg.Recovery = cfg.Set.With("pcrs", "4,7"), paper
	key, ring, _, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	p, err := cfg.ForNewSlot(t.Context(), "tpm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Reseal(t.Context(), key, ring.Slots()[0].ID, p); err != nil {
		t.Fatal(err)
	}
	cfg.Recovery = nil
	if err := opened(t, cfg); err != nil {
		t.Fatal(err)
	}
	// A slot in SHA-1 is less than one in SHA-256.
	if one, err := tpm.ParsePCRs("sha1:7"); err != nil || len(mustPCRs(t, "7").Without(one).PCRs) != 1 {
		t.Errorf("SHA-1 counts: %v", err)
	}
}

func mustPCRs(t *testing.T, text string) tpm.Selection {
	t.Helper()
	sel, err := tpm.ParsePCRs(text)
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// indexes are the NV indexes of the owner, with their sizes.
func indexes(t *testing.T, chip *swtpmtest.TPM) (out []tpm2.TPMHandle) {
	t.Helper()
	chip.Do(func(c transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x01800000, PropertyCount: 16}.Execute(c)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return err
		}
		for _, h := range list.Handle {
			if h < 0x01c00000 {
				out = append(out, h)
			}
		}
		return nil
	})
	return out
}

func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
}

// deleteIndex is what the owner of a TPM can do; the content comes back.
func deleteIndex(t *testing.T, chip *swtpmtest.TPM, h tpm2.TPMHandle) (public tpm2.TPMSNVPublic, data []byte) {
	t.Helper()
	chip.Do(func(c transport.TPM) error {
		rsp, err := tpm2.NVReadPublic{NVIndex: h}.Execute(c)
		if err != nil {
			return err
		}
		pub, err := rsp.NVPublic.Contents()
		if err != nil {
			return err
		}
		public = *pub
		named := tpm2.NamedHandle{Handle: h, Name: rsp.NVName}
		got, err := tpm2.NVRead{AuthHandle: owner(), NVIndex: named, Size: public.DataSize}.Execute(c)
		if err != nil {
			return err
		}
		data = got.Data.Buffer
		_, err = tpm2.NVUndefineSpace{AuthHandle: owner(), NVIndex: named}.Execute(c)
		return err
	})
	return public, data
}

// An older ring is refused, by the TPM's memory; with the recovery key a person takes it,
// and then it is the newest. So is one whose index is gone, or was made anew with the very
// same content by the owner, who does not have the tier key.
func TestTPMRemembersTheRing(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, chip *swtpmtest.TPM, cfg Config, old map[string][]byte)
		want  error
	}{
		"older ring": {func(t *testing.T, _ *swtpmtest.TPM, cfg Config, old map[string][]byte) { put(t, cfg, old) }, keys.ErrOlderRing},
		"index deleted": {func(t *testing.T, chip *swtpmtest.TPM, _ Config, _ map[string][]byte) {
			deleteIndex(t, chip, indexes(t, chip)[0])
		}, keys.ErrAnchorLost},
		"index deleted, older ring": {func(t *testing.T, chip *swtpmtest.TPM, cfg Config, old map[string][]byte) {
			deleteIndex(t, chip, indexes(t, chip)[0])
			put(t, cfg, old)
		}, keys.ErrAnchorLost},
		"index made anew by the owner": {func(t *testing.T, chip *swtpmtest.TPM, _ Config, _ map[string][]byte) {
			public, data := deleteIndex(t, chip, indexes(t, chip)[0])
			public.Attributes.Written = false
			chip.Do(func(c transport.TPM) error {
				if _, err := (tpm2.NVDefineSpace{AuthHandle: owner(), Auth: tpm2.TPM2BAuth{Buffer: []byte("mine")}, PublicInfo: tpm2.New2B(public)}).Execute(c); err != nil {
					return err
				}
				rsp, err := tpm2.NVReadPublic{NVIndex: public.NVIndex}.Execute(c)
				if err != nil {
					return err
				}
				_, err = tpm2.NVWrite{
					AuthHandle: tpm2.AuthHandle{Handle: public.NVIndex, Name: rsp.NVName, Auth: tpm2.PasswordAuth([]byte("mine"))},
					NVIndex:    tpm2.NamedHandle{Handle: public.NVIndex, Name: rsp.NVName}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data},
				}.Execute(c)
				return err
			})
		}, keys.ErrAnchorLost},
	} {
		t.Run(name, func(t *testing.T) {
			chip := swtpmtest.Start(t).Boot()
			cfg, paper := sealedVault(t, chip, "7")
			old := files(t, cfg)
			key, ring, _, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			for range 2 {
				if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, recovery.Generate()), ""); err != nil {
					t.Fatal(err)
				}
			}
			tc.spoil(t, chip, cfg, old)
			if err := opened(t, cfg); !errors.Is(err, tc.want) || !errors.Is(err, keys.ErrLocked) {
				t.Fatalf("got %v", err)
			}
			// The control: who does not ask the TPM takes the ring as it is.
			blind := cfg
			blind.NoAnchor = true
			if err := opened(t, blind); err != nil {
				t.Fatalf("control: %v", err)
			}
			person := cfg
			person.Recovery = paper
			key, ring, _, err = Open(t.Context(), person)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			if err := ring.Reanchor(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			if err := opened(t, cfg); err != nil {
				t.Fatalf("after recovery: %v", err)
			}
			if n := len(indexes(t, chip)); n != 1 {
				t.Errorf("%d indexes are left in the TPM", n)
			}
			chip.ExpectEmpty(t)
		})
	}
}

// A rotation moves the ring to the other index, and what was before it is refused.
func TestRotationMovesTheIndex(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg, _ := sealedVault(t, chip, "7")
	old := files(t, cfg)
	before := indexes(t, chip)
	for range 3 {
		key, ring, _, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		p, err := cfg.ForNewSlot(t.Context(), "tpm")
		if err != nil {
			t.Fatal(err)
		}
		plan := keys.Rotation{Carry: map[string]keys.Provider{}}
		for _, s := range ring.Slots() {
			if s.Provider == tpm.Name {
				plan.Carry[s.ID] = p
			} else {
				plan.Drop = append(plan.Drop, s.ID)
			}
		}
		if _, err := ring.Rotate(t.Context(), key, plan); err != nil {
			t.Fatal(err)
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
		after := indexes(t, chip)
		if len(after) != 1 || after[0] == before[0] {
			t.Fatalf("indexes %x, before %x", after, before)
		}
		before = after
		if err := opened(t, cfg); err != nil {
			t.Fatal(err)
		}
	}
	put(t, cfg, old)
	if err := opened(t, cfg); !errors.Is(err, keys.ErrAnchorLost) {
		t.Fatalf("the ring of before the rotation: %v", err)
	}
}

// An owner password keeps a ring from being anchored, which is said; one that was set later
// keeps nothing but a rotation, which then does not begin.
func TestOwnerPassword(t *testing.T) {
	password := func(chip *swtpmtest.TPM) {
		chip.Do(func(c transport.TPM) error {
			_, err := tpm2.HierarchyChangeAuth{AuthHandle: owner(), NewAuth: tpm2.TPM2BAuth{Buffer: []byte("owner")}}.Execute(c)
			return err
		})
	}
	chip := swtpmtest.Start(t).Boot()
	cfg, _ := sealedVault(t, chip, "7")
	persistSRK(t, chip)
	password(chip)
	key, ring, _, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if _, err := ring.Enroll(t.Context(), key, recovery.New(recovery.KindKey, recovery.Generate()), ""); err != nil {
		t.Fatal(err)
	}
	before := files(t, cfg)
	plan := keys.Rotation{Carry: map[string]keys.Provider{}}
	for i, s := range ring.Slots() {
		if i == 0 {
			if plan.Carry[s.ID], err = cfg.ForNewSlot(t.Context(), "tpm"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		plan.Drop = append(plan.Drop, s.ID)
	}
	if _, err := ring.Rotate(t.Context(), key, plan); !errors.Is(err, keys.ErrAnchor) {
		t.Fatalf("got %v", err)
	}
	for name, data := range files(t, cfg) {
		if !bytes.Equal(data, before[name]) {
			t.Errorf("%s was written", name)
		}
	}
	if err := opened(t, cfg); err != nil {
		t.Fatal(err)
	}
	// A vault that is made then goes without.
	other := swtpmtest.Start(t).Boot()
	persistSRK(t, other)
	password(other)
	cfg = Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", New: keys.Values{"pcrs": "7"}, Set: keys.Values{"tpm": other.Socket}}
	_, ring = open(t, cfg)
	if ring.Anchored() {
		t.Fatal("anchored by whom?")
	}
	if err := opened(t, cfg); err != nil {
		t.Fatal(err)
	}
}

// persistSRK puts the standard storage key at 0x81000001.
func persistSRK(t *testing.T, chip *swtpmtest.TPM) {
	t.Helper()
	chip.Do(func(c transport.TPM) error {
		key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, PersistentHandle: 0x81000001,
		}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(c)
		return err
	})
}

// Where the tier's ring is missing (its disk is not mounted) no other is made in its place;
// unpin gives the old one up.
func TestMissingRingIsNotReplaced(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg, _ := sealedVault(t, chip, "7")
	empty := cfg
	empty.Tier = filepath.Join(t.TempDir(), "vault")
	if _, _, err := OpenOrCreate(t.Context(), empty); !errors.Is(err, keys.ErrRingLost) {
		t.Fatalf("got %v", err)
	}
	// The other tier has indexes of its own.
	unsealed := Config{Tier: filepath.Join(filepath.Dir(empty.Tier), "unsealed-vault"), Provider: "tpm", New: keys.Values{"pcrs": "none"}, Unmeasured: true, Set: keys.Values{"tpm": chip.Socket}}
	open(t, unsealed)
	if err := opened(t, unsealed); err != nil {
		t.Fatal(err)
	}
	if n, err := empty.Unpin(t.Context()); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	open(t, empty)
	if err := opened(t, cfg); !errors.Is(err, keys.ErrAnchorLost) {
		t.Fatalf("the ring that was given up: %v", err)
	}
	if err := opened(t, unsealed); err != nil {
		t.Fatal(err)
	}
}

// Without a recovery key the setting is the way back from an index that is lost, and leads
// to another one.
func TestLostIndexWithoutARecoveryKey(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	cfg := Config{Tier: filepath.Join(t.TempDir(), "vault"), Provider: "tpm", Set: keys.Values{"pcrs": "7", "tpm": chip.Socket}}
	open(t, cfg)
	deleteIndex(t, chip, indexes(t, chip)[0])
	if err := opened(t, cfg); !errors.Is(err, keys.ErrAnchorLost) {
		t.Fatalf("got %v", err)
	}
	blind := cfg
	blind.NoAnchor = true
	for _, cfg := range []Config{blind, cfg} {
		key, ring, _, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := ring.Reanchor(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if err := key.Close(); err != nil {
			t.Fatal(err)
		}
		if ring.Anchored() == cfg.NoAnchor {
			t.Fatalf("anchor=none %v, anchored %v", cfg.NoAnchor, ring.Anchored())
		}
	}
	if err := opened(t, cfg); err != nil {
		t.Fatal(err)
	}
}
