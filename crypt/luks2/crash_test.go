package luks2_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"layervault/crypt/luks2"
)

// crashFile is a file on a disk with a volatile cache: after the given number of
// writes and syncs everything fails. What survives is then up to the caller.
type crashFile struct {
	stable  []byte  // what Sync has made durable
	now     []byte  // what a reader sees
	pending []write // since the last Sync
	left    int     // operations until the crash
	ops     int     // operations done
}

type write struct {
	offset int64
	data   []byte
}

var errCrash = errors.New("the machine stopped")

func newCrashFile(image []byte, left int) *crashFile {
	return &crashFile{stable: bytes.Clone(image), now: bytes.Clone(image), left: left}
}

func (c *crashFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(c.now).ReadAt(p, off)
}

func (c *crashFile) WriteAt(p []byte, off int64) (int, error) {
	c.pending = append(c.pending, write{off, bytes.Clone(p)}) // also the one that is cut off
	if c.left--; c.left < 0 {
		return 0, errCrash
	}
	c.ops++
	copy(c.now[off:], p)
	return len(p), nil
}

func (c *crashFile) Sync() error {
	if c.left--; c.left < 0 {
		return errCrash
	}
	c.ops++
	for _, w := range c.pending { // all that the two differ in
		copy(c.stable[w.offset:], w.data)
	}
	c.pending = nil
	return nil
}

// killed is the file after a SIGKILL: what was written stays, in order; of the write
// that was cut off a part may be there.
func (c *crashFile) killed(rng *rand.Rand) []byte {
	image := bytes.Clone(c.now)
	if n := len(c.pending); n > 0 {
		last := c.pending[n-1]
		copy(image[last.offset:], last.data[:rng.IntN(len(last.data)+1)])
	}
	return image
}

// powerCut is the file after a power cut: of everything since the last Sync any
// 512 byte sectors are there and others are not, in no order.
func (c *crashFile) powerCut(rng *rand.Rand) []byte {
	image := bytes.Clone(c.stable)
	for _, w := range c.pending {
		for i := 0; i < len(w.data); i += 512 {
			if rng.IntN(2) == 0 {
				copy(image[w.offset+int64(i):], w.data[i:min(i+512, len(w.data))])
			}
		}
	}
	return image
}

// memImage formats an image of 1 MiB in memory, with a second slot.
func memImage(t *testing.T) (image, volumeKey []byte) {
	t.Helper()
	f := newCrashFile(make([]byte, 1<<20), 1<<30)
	h, key := mustFormat(t, f, luks2.Params{KeySize: 32})
	if _, err := h.AddSlot(f, key, []byte("second"), luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	return f.stable, key
}

// copyLen is the size of one header copy in these tests.
const copyLen = 16 << 10

func damage(image []byte, offset int) []byte {
	image = bytes.Clone(image)
	image[offset] ^= 1
	return image
}

// TestCrash stops every kind of change after each of its writes and syncs, in images
// whose copies are fine, damaged or of different age, and wants the image to open
// with every passphrase that neither the change nor an earlier one took away.
func TestCrash(t *testing.T) {
	healthy, key := memImage(t)
	older := bytes.Clone(healthy)
	{ // the secondary as it was one change earlier
		f := newCrashFile(healthy, 1<<30)
		if _, err := mustRead(t, f).SetToken(f, 0, []byte(`{"type":"x","keyslots":[]}`)); err != nil {
			t.Fatal(err)
		}
		copy(older, f.stable[:copyLen])
	}
	olderPrimary := bytes.Clone(healthy)
	copy(olderPrimary[copyLen:2*copyLen], func() []byte {
		f := newCrashFile(healthy, 1<<30)
		if _, err := mustRead(t, f).SetToken(f, 0, []byte(`{"type":"x","keyslots":[]}`)); err != nil {
			t.Fatal(err)
		}
		return f.stable[copyLen : 2*copyLen]
	}())
	images := map[string][]byte{
		"healthy": healthy, "secondary older": older, "primary older": olderPrimary,
		"primary damaged": damage(healthy, 100), "secondary damaged": damage(healthy, copyLen+5000),
	}
	changes := []struct {
		name string
		keep []string // passphrases that must open the image at any time
		do   func(f luks2.File) error
	}{
		{"AddSlot", []string{string(secret), "second"}, func(f luks2.File) error {
			_, err := mustRead(t, f).AddSlot(f, key, []byte("third"), luks2.RandomKeyKDF())
			return err
		}},
		{"RemoveSlot", []string{string(secret)}, func(f luks2.File) error {
			return mustRead(t, f).RemoveSlot(f, 1)
		}},
		{"SetToken", []string{string(secret), "second"}, func(f luks2.File) error {
			_, err := mustRead(t, f).SetToken(f, -1, []byte(`{"type":"y","keyslots":["1"]}`))
			return err
		}},
		{"Repair", []string{string(secret), "second"}, luks2.Repair},
	}
	for state, image := range images {
		for _, change := range changes {
			t.Run(change.name+"/"+state, func(t *testing.T) {
				whole := newCrashFile(image, 1<<30)
				if err := change.do(whole); err != nil {
					t.Fatal(err)
				}
				if mustRead(t, whole).NeedsRepair() {
					t.Error("a copy is bad after a complete change")
				}
				for after := range whole.ops + 1 {
					f := newCrashFile(image, after)
					if err := change.do(f); (err == nil) != (after == whole.ops) {
						t.Fatalf("after %d operations: %v", after, err)
					}
					rng := rand.New(rand.NewPCG(0, uint64(after)))
					checkOpens(t, fmt.Sprintf("killed after %d", after), f.killed(rng), key, change.keep)
					for seed := range uint64(2) {
						rng := rand.New(rand.NewPCG(seed, uint64(after)))
						checkOpens(t, fmt.Sprintf("power cut after %d, seed %d", after, seed), f.powerCut(rng), key, change.keep)
					}
				}
			})
		}
	}
}

// checkOpens wants each passphrase to open the image, and every listed slot of the
// others either to work or to be wiped; and Repair must make both copies fine again.
func checkOpens(t *testing.T, when string, image, key []byte, passphrases []string) {
	t.Helper()
	f := newCrashFile(image, 1<<30)
	h, err := luks2.Read(f)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	for _, p := range passphrases {
		got, _, err := h.Unlock(f, []byte(p))
		if err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %q: %v", when, p, err)
		}
	}
	if slices.ContainsFunc(h.Slots(), func(s luks2.Slot) bool { return s.ID == 2 }) {
		if _, err := h.UnlockSlot(f, 2, []byte("third")); err != nil {
			t.Errorf("%s: the new slot is listed, but: %v", when, err)
		}
	}
	if err := luks2.Repair(f); err != nil || mustRead(t, f).NeedsRepair() {
		t.Errorf("%s: repair: %v", when, err)
	}
}

// TestEraseCrash wants an interrupted Erase to be finished by a second one, whatever
// the first left.
func TestEraseCrash(t *testing.T) {
	image, _ := memImage(t)
	whole := newCrashFile(image, 1<<30)
	if err := luks2.Erase(whole); err != nil {
		t.Fatal(err)
	}
	for after := range whole.ops + 1 {
		f := newCrashFile(image, after)
		_ = luks2.Erase(f) // it is made to fail
		for seed := range uint64(3) {
			rng := rand.New(rand.NewPCG(seed, uint64(after)))
			again := newCrashFile(f.powerCut(rng), 1<<30)
			if err := luks2.Erase(again); err != nil {
				t.Fatalf("after %d, seed %d: %v", after, seed, err)
			}
			if bytes.Contains(again.now, image[2*copyLen:2*copyLen+512]) {
				t.Errorf("after %d, seed %d: key material is left", after, seed)
			}
			if h, err := luks2.Read(again); err == nil {
				if _, _, err := h.Unlock(again, secret); !errors.Is(err, luks2.ErrNoKey) {
					t.Errorf("after %d, seed %d: %v", after, seed, err)
				}
			}
		}
	}
}
