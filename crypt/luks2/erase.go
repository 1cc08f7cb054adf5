package luks2

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// eraseUnknown is how much of an image Erase overwrites when no header copy can be
// read: as far as cryptsetup's default header with all its key slots reaches. It
// takes the begin of the data too, which is lost with its keys anyway.
const eraseUnknown = 16 << 20

// Erase destroys all key slots for good: their areas are overwritten with random
// bytes, both header copies are written without key slots, and all of it is synced
// once. After that no passphrase opens the image; only a header backup would.
//
// It also works on an image whose header copies are both damaged, and on one with
// requirements that this package does not support: then everything a header may
// use is overwritten. A crash before Erase returns may leave the image in any state;
// call it again. A file that never was LUKS2 is left alone (ErrNotLUKS2).
func Erase(f File) error {
	h, err := Read(f)
	if errors.Is(err, ErrDamaged) {
		return eraseBlind(f)
	}
	if err != nil {
		return fmt.Errorf("erasing: %w", err)
	}
	if err := h.erase(f); err != nil {
		return fmt.Errorf("erasing %s: %w", h.UUID(), err)
	}
	return nil
}

func (h *Header) erase(f File) error {
	// A slot that only the older of two differing copies lists was overwritten before
	// the newer copy was written, so the newest header names all that is left.
	for _, k := range h.meta.slots {
		if err := wipe(f, k.areaOffset, k.areaSize); err != nil {
			return err
		}
	}
	doc, err := decodeTree(h.text)
	if err != nil {
		return err
	}
	for name := range doc["keyslots"].(object) {
		unlist(doc["digests"].(object), name)
		unlist(doc["tokens"].(object), name)
	}
	doc["keyslots"] = object{}
	if err := h.setTree(doc); err != nil {
		return err
	}
	h.bin.seqID++
	for i := range h.bad {
		if err := h.writeCopy(f, i); err != nil {
			return err
		}
	}
	return f.Sync()
}

func eraseBlind(f File) error {
	// wipe would make a short file longer, so it ends where the file does.
	end := int64(eraseUnknown)
	for end > 0 {
		if _, err := f.ReadAt(make([]byte, 1), end-1); err == nil {
			break
		} else if !errors.Is(err, io.EOF) {
			return fmt.Errorf("erasing: %w", err)
		}
		end -= areaAlign
	}
	if err := wipe(f, 0, end); err != nil {
		return fmt.Errorf("erasing: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("erasing: %w", err)
	}
	return nil
}

// wipe overwrites with random bytes: a file system that stores no zeros would keep
// the old blocks.
func wipe(f File, offset, n int64) error {
	buf := make([]byte, min(n, 256<<10))
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		rand.Read(part)
		if _, err := f.WriteAt(part, offset); err != nil {
			return fmt.Errorf("overwriting key slot area: %w", err)
		}
		offset += int64(len(part))
		n -= int64(len(part))
	}
	return nil
}
