package luks2

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
)

// AddSlot puts the volume key into a new key slot that the passphrase opens, and
// gives its number. The slot's salt and stripes are drawn anew.
//
// The key material is on stable storage before the header speaks of it, so a crash
// leaves either no new slot (and random bytes in unused space: their salt was never
// written) or one that works.
//
// Errors: ErrWrongVolumeKey, ErrEmptyKey, ErrNoRoom, ErrStale, ErrUnsupported, or what f returned.
func (h *Header) AddSlot(f File, volumeKey, passphrase []byte, kdf KDF) (slot int, err error) {
	if slot, err = h.addSlot(f, volumeKey, passphrase, kdf); err != nil {
		return -1, fmt.Errorf("adding a key slot to %s: %w", h.UUID(), err)
	}
	return slot, nil
}

func (h *Header) addSlot(f File, volumeKey, passphrase []byte, kdf KDF) (int, error) {
	if err := kdf.checkNew(passphrase); err != nil {
		return -1, err
	}
	if _, err := h.current(f); err != nil {
		return -1, err
	}
	d, ok := h.meta.dataDigest()
	if !ok {
		return -1, &UnsupportedError{What: "data segment without a digest"}
	}
	if ok, err := d.verify(volumeKey); err != nil {
		return -1, err
	} else if !ok {
		return -1, ErrWrongVolumeKey
	}
	id, err := h.meta.freeSlot()
	if err != nil {
		return -1, err
	}
	k, err := h.meta.newKeyslot(id, len(volumeKey), h.bin.size, kdf)
	if err != nil {
		return -1, err
	}
	if _, err := k.write(f, volumeKey, passphrase); err != nil {
		return -1, err
	}
	if err := f.Sync(); err != nil {
		return -1, err
	}
	return id, h.change(f, func(doc object) error {
		name := strconv.Itoa(id)
		doc["keyslots"].(object)[name] = k.json()
		dj := doc["digests"].(object)[strconv.Itoa(d.id)].(object)
		dj["keyslots"] = append(dj["keyslots"].([]any), name)
		return nil
	})
}

// RemoveSlot destroys a key slot. The area is overwritten and synced first, so from
// then on the old passphrase opens nothing, also where an old header was copied
// from this file. A crash right after that leaves a slot in the header that no
// passphrase opens; removing it again finishes the work.
//
// Errors: ErrNoSlot, ErrLastSlot, ErrStale, ErrUnsupported, or what f returned.
func (h *Header) RemoveSlot(f File, slot int) error {
	if err := h.removeSlot(f, slot); err != nil {
		return fmt.Errorf("removing key slot %d of %s: %w", slot, h.UUID(), err)
	}
	return nil
}

func (h *Header) removeSlot(f File, slot int) error {
	if _, err := h.current(f); err != nil {
		return err
	}
	k, ok := h.meta.slot(slot)
	if !ok {
		return ErrNoSlot
	}
	if h.meta.isLast(slot) {
		return ErrLastSlot
	}
	if err := wipe(f, k.areaOffset, k.areaSize); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return h.change(f, func(doc object) error {
		name := strconv.Itoa(slot)
		delete(doc["keyslots"].(object), name)
		unlist(doc["digests"].(object), name)
		unlist(doc["tokens"].(object), name)
		return nil
	})
}

// isLast tells whether no other slot holds the key of the data.
func (m *metadata) isLast(slot int) bool {
	if _, bound := m.digestOf(slot); !bound {
		return false
	}
	for _, k := range m.slots {
		if _, bound := m.digestOf(k.id); bound && k.id != slot {
			return false
		}
	}
	return true
}

// unlist takes a slot's name out of the "keyslots" array of each member.
func unlist(section object, slot string) {
	for _, v := range section {
		member := v.(object)
		member["keyslots"] = slices.DeleteFunc(member["keyslots"].([]any), func(v any) bool { return v == slot })
	}
}

// dataDigest gives the digest of the data segment.
func (m *metadata) dataDigest() (digest, bool) {
	for _, d := range m.digests {
		if slices.Contains(d.segments, strconv.Itoa(m.segments[0].id)) {
			return d, true
		}
	}
	return digest{}, false
}

func (m *metadata) freeSlot() (int, error) {
	for id := range maxObjects {
		if _, used := m.slot(id); !used {
			return id, nil
		}
	}
	return -1, fmt.Errorf("%w: all %d key slots are in use", ErrNoRoom, maxObjects)
}

// newKeyslot finds room for a key and draws a salt.
func (m *metadata) newKeyslot(id, keySize int, hdrSize int64, kdf KDF) (keyslot, error) {
	need := roundUp(int64(keySize)*afStripes, areaAlign)
	offset := 2 * hdrSize
	for _, k := range m.byOffset() {
		if offset+need <= k.areaOffset {
			break
		}
		offset = roundUp(k.areaOffset+k.areaSize, areaAlign)
	}
	if offset+need > 2*hdrSize+m.keyslotsSize {
		return keyslot{}, fmt.Errorf("%w: no gap of %d bytes in the key slots area", ErrNoRoom, need)
	}
	k := keyslot{
		id: id, typ: "luks2", priority: 1, keySize: keySize, areaOffset: offset, areaSize: need,
		afHash: "sha256", afStripes: afStripes, areaCipher: defaultAreaCipher, areaKeySize: defaultAreaKeySize,
		kdf: kdf, salt: make([]byte, saltSize),
	}
	rand.Read(k.salt)
	return k, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// json is the slot as the header describes it.
func (k keyslot) json() object {
	kdf := object{"type": k.kdf.Type, "salt": base64.StdEncoding.EncodeToString(k.salt)}
	// cryptsetup refuses a kdf object with members that its type does not need.
	if k.kdf.Type == KDFPBKDF2 {
		kdf["hash"], kdf["iterations"] = k.kdf.Hash, number(k.kdf.Iterations)
	} else {
		kdf["time"], kdf["memory"], kdf["cpus"] = number(k.kdf.Iterations), number(k.kdf.MemoryKiB), number(k.kdf.Parallelism)
	}
	return object{
		"type": k.typ, "key_size": number(k.keySize),
		"af": object{"type": "luks1", "stripes": number(k.afStripes), "hash": k.afHash},
		"area": object{
			"type": "raw", "encryption": k.areaCipher, "key_size": number(k.areaKeySize),
			"offset": strconv.FormatInt(k.areaOffset, 10), "size": strconv.FormatInt(k.areaSize, 10),
		},
		"kdf": kdf,
	}
}

// write puts the key into the slot's area: derive, split, encrypt. It gives the
// checksum of what it wrote.
func (k keyslot) write(f File, volumeKey, passphrase []byte) (sum uint32, err error) {
	areaKey, err := k.kdf.derive(passphrase, k.salt, k.areaKeySize)
	if err != nil {
		return 0, err
	}
	defer clear(areaKey)
	c, err := newSectorCipher(k.areaCipher, areaKey)
	if err != nil {
		return 0, err
	}
	// Room for whole sectors, so that padding does not move the stripes.
	area := make([]byte, afSize(k.keySize))
	defer clear(area)
	afSplit(area[:k.keySize*afStripes], volumeKey)
	cryptArea(area, c.encrypt)
	if _, err := f.WriteAt(area, k.areaOffset); err != nil {
		return 0, fmt.Errorf("writing key slot %d: %w", k.id, err)
	}
	return crc32.Checksum(area, castagnoli), nil
}
