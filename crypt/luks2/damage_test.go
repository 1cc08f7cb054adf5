package luks2_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/crypt/luks2"
)

// flip changes one byte of the file.
func flip(t *testing.T, f *os.File, offset int64) {
	t.Helper()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Where to damage one copy, counted from its begin. (A damaged version number we repair
// too, see TestDamagedVersion; cryptsetup gives up before it looks at the other copy.)
var sore = map[string]int64{"magic": 0, "size": 13, "salt": 110, "checksum": 450, "json": 4100, "padding": copyLen - 1}

func TestOneDamagedCopy(t *testing.T) {
	repairs := map[string]func(t *testing.T, f *os.File){
		"by us":         func(t *testing.T, f *os.File) { must(t, luks2.Repair(f)) },
		"by cryptsetup": func(t *testing.T, f *os.File) { mustCryptsetup(t, "repair", f.Name()) },
		"by a change": func(t *testing.T, f *os.File) {
			must(t, mustRead(t, f).SetFlags(f, []string{luks2.FlagAllowDiscards}))
		},
	}
	for where, offset := range sore {
		for copyName, base := range map[string]int64{"primary": 0, "secondary": copyLen} {
			for by, repair := range repairs {
				t.Run(copyName+"/"+where+"/"+by, func(t *testing.T) {
					f := newImage(t)
					_, key := mustFormat(t, f, luks2.Params{})
					flip(t, f, base+offset)
					h := mustRead(t, f)
					if !h.NeedsRepair() || h.Damage() == nil {
						t.Error("the damage is not noticed")
					}
					if got, _, err := h.Unlock(f, secret); err != nil || !bytes.Equal(got, key) {
						t.Errorf("before the repair: %v", err)
					}
					repair(t, f)
					if h := mustRead(t, f); h.NeedsRepair() {
						t.Errorf("after the repair: %v", h.Damage())
					}
					flip(t, f, copyLen-base+offset) // now the other copy: the repaired one must do alone
					if got, _, err := mustRead(t, f).Unlock(f, secret); err != nil || !bytes.Equal(got, key) {
						t.Errorf("from the repaired copy: %v", err)
					}
					mustCryptsetup(t, "open", "--test-passphrase", f.Name())
				})
			}
		}
	}
}

func TestDamagedVersion(t *testing.T) {
	f := newImage(t)
	mustFormat(t, f, luks2.Params{})
	flip(t, f, 7)
	must(t, luks2.Repair(f))
	mustCryptsetup(t, "open", "--test-passphrase", f.Name())
}

func TestTwoDamagedCopies(t *testing.T) {
	f := newImage(t)
	_, key := mustFormat(t, f, luks2.Params{})
	h := mustRead(t, f)
	flip(t, f, 4100)
	flip(t, f, copyLen+4100)
	before := content(t, f)
	if _, err := luks2.Read(f); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("Read: %v", err)
	}
	if err := luks2.Repair(f); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("Repair: %v", err)
	}
	if _, err := h.AddSlot(f, key, secret, luks2.RandomKeyKDF()); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("AddSlot: %v", err)
	}
	if err := h.RemoveSlot(f, 0); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("RemoveSlot: %v", err)
	}
	if !bytes.Equal(content(t, f), before) {
		t.Error("a damaged image was written to")
	}
	if err := luks2.Erase(f); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content(t, f), before[2*copyLen:2*copyLen+512]) {
		t.Error("key material is left after Erase")
	}
	if got := content(t, f); len(got) != len(before) {
		t.Errorf("Erase made %d bytes of %d", len(got), len(before))
	}
}

func TestNotLUKS2(t *testing.T) {
	empty, short := newImage(t), newImage(t)
	must(t, short.Truncate(0))
	luks1 := newImage(t)
	mustCryptsetup(t, "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", luks1.Name())
	for name, f := range map[string]*os.File{"zeros": empty, "empty": short, "LUKS1": luks1} {
		t.Run(name, func(t *testing.T) {
			before := content(t, f)
			if _, err := luks2.Read(f); !errors.Is(err, luks2.ErrNotLUKS2) {
				t.Errorf("Read: %v", err)
			}
			if err := luks2.Repair(f); !errors.Is(err, luks2.ErrNotLUKS2) {
				t.Errorf("Repair: %v", err)
			}
			if err := luks2.Erase(f); !errors.Is(err, luks2.ErrNotLUKS2) {
				t.Errorf("Erase: %v", err)
			}
			if !bytes.Equal(content(t, f), before) {
				t.Error("the file was written to")
			}
		})
	}
}

func TestCutOffFile(t *testing.T) {
	f := newImage(t)
	mustFormat(t, f, luks2.Params{})
	must(t, f.Truncate(100<<10)) // within the key slot
	if _, _, err := mustRead(t, f).Unlock(f, secret); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("Unlock: %v", err)
	}
	must(t, f.Truncate(4500)) // within the JSON of the primary copy
	if _, err := luks2.Read(f); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("Read: %v", err)
	}
}

// TestFormatForgetsOldHeaders formats over an image with larger header copies, whose
// secondary must not come back when the new primary is damaged.
func TestFormatForgetsOldHeaders(t *testing.T) {
	f := newImage(t)
	old, _ := mustFormat(t, f, luks2.Params{MetadataSize: 64 << 10})
	h, key := mustFormat(t, f, luks2.Params{})
	flip(t, f, 0)
	flip(t, f, copyLen)
	if again, err := luks2.Read(f); !errors.Is(err, luks2.ErrNotLUKS2) {
		t.Errorf("found %v (old %s, new %s): %v", again, old.UUID(), h.UUID(), err)
	}
	clear(key)
}

func TestHeaderBackup(t *testing.T) {
	f := newImage(t)
	_, key := mustFormat(t, f, luks2.Params{})
	backup := filepath.Join(t.TempDir(), "backup")
	mustCryptsetup(t, "luksHeaderBackup", "--header-backup-file", backup, f.Name())
	must(t, luks2.Erase(f))
	mustCryptsetup(t, "luksHeaderRestore", "--header-backup-file", backup, f.Name())
	if got, _, err := mustRead(t, f).Unlock(f, secret); err != nil || !bytes.Equal(got, key) {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What a disk gave back wrongly is noticed before a new image gets its name.
func TestVerify(t *testing.T) {
	f := newImage(t)
	h, _ := mustFormat(t, f, luks2.Params{})
	must(t, h.Verify(f))
	at := map[string]int64{"first byte of the key slot": 2 * copyLen, "last byte of the key slot": 2*copyLen + 64*4000 - 1}
	for where, offset := range sore {
		at["primary "+where], at["secondary "+where] = offset, copyLen+offset
	}
	for where, offset := range at {
		flip(t, f, offset)
		if err := h.Verify(f); !errors.Is(err, luks2.ErrDamaged) {
			t.Errorf("%s: %v", where, err)
		}
		flip(t, f, offset)
	}
	must(t, h.Verify(f))
	other := newImage(t)
	mustFormat(t, other, luks2.Params{UUID: h.UUID()})
	if err := h.Verify(other); !errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("another image: %v", err)
	}
	if err := mustRead(t, f).Verify(f); err == nil {
		t.Error("a header that was only read cannot be verified, but was")
	}
}
