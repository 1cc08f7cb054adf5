package luks2_test

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"

	"layervault/crypt/luks2"
)

// badSectors fails every read that touches [from, to).
type badSectors struct {
	io.ReaderAt
	from, to int64
}

func (b badSectors) ReadAt(p []byte, off int64) (int, error) {
	if off < b.to && off+int64(len(p)) > b.from {
		return 0, syscall.EIO
	}
	return b.ReaderAt.ReadAt(p, off)
}

func TestUnreadableSectors(t *testing.T) {
	f := newImage(t)
	_, key := mustFormat(t, f, luks2.Params{})
	for name, r := range map[string]io.ReaderAt{
		"primary":   badSectors{f, 0, 4096},
		"secondary": badSectors{f, copyLen, copyLen + 4096},
	} {
		h := mustRead(t, r)
		if !h.NeedsRepair() || !errors.Is(h.Damage(), syscall.EIO) {
			t.Errorf("%s: damage %v", name, h.Damage())
		}
		if got, _, err := h.Unlock(r, secret); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A medium that cannot be read is no damaged header: nobody may act on that.
	if _, err := luks2.Read(badSectors{f, 0, 1 << 20}); !errors.Is(err, syscall.EIO) || errors.Is(err, luks2.ErrDamaged) {
		t.Errorf("both unreadable: %v", err)
	}
	if _, _, err := mustRead(t, f).Unlock(badSectors{f, 64 << 10, 65 << 10}, secret); !errors.Is(err, syscall.EIO) {
		t.Errorf("key slot unreadable: %v", err)
	}
}

// spy keeps the buffers it was asked to fill.
type spy struct {
	io.ReaderAt
	filled [][]byte
}

func (s *spy) ReadAt(p []byte, off int64) (int, error) {
	s.filled = append(s.filled, p)
	return s.ReaderAt.ReadAt(p, off)
}

// TestUnlockWipesKeyMaterial looks at the buffer in which the key slot was decrypted.
func TestUnlockWipesKeyMaterial(t *testing.T) {
	f := newImage(t)
	mustFormat(t, f, luks2.Params{})
	for _, passphrase := range []string{string(secret), "wrong"} {
		s := &spy{ReaderAt: f}
		_, _, _ = mustRead(t, f).Unlock(s, []byte(passphrase)) // both outcomes are wanted
		if len(s.filled) != 1 || len(s.filled[0]) != 256000 {
			t.Fatalf("%d reads", len(s.filled))
		}
		if !bytes.Equal(s.filled[0], make([]byte, 256000)) {
			t.Errorf("key material is left in memory after %q", passphrase)
		}
	}
}
