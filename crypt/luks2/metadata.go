package luks2

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
)

const (
	// maxObjects bounds key slots, tokens, digests and segments each, as
	// cryptsetup does (LUKS2_OBJECTS_MAX).
	maxObjects = 32
	// maxKeyslotsSize bounds the key slots area, as cryptsetup does.
	maxKeyslotsSize = 128 << 20
	// maxKeySize bounds one key, in bytes. The largest in use is a 512 bit XTS
	// key with a 512 bit HMAC key; four times that is left as room.
	maxKeySize = 512
	// areaAlign: key slot areas begin and end at multiples of 4 KiB.
	areaAlign = 4096
)

// metadata is what this package understands of the JSON.
type metadata struct {
	doc          object // the whole JSON; never changed
	slots        []keyslot
	digests      []digest
	segments     []segment
	tokens       []int
	flags        []string
	requirements []string
	keyslotsSize int64
}

// keyslot is one member of "keyslots". Of a type that is not "luks2" only the
// type, the key size and the area are known.
type keyslot struct {
	id, priority int
	typ          string
	keySize      int // of the key inside, in bytes
	areaOffset   int64
	areaSize     int64

	afHash      string
	afStripes   int
	areaCipher  string
	areaKeySize int
	kdf         KDF
	salt        []byte
}

type digest struct {
	id                 int
	typ                string
	keyslots, segments []string
	hash               string
	iterations         int
	salt, digest       []byte
}

type segment struct {
	id           int
	typ          string
	offset, size int64 // bytes; size 0 is "dynamic": up to the end
	cipher       string
	ivTweak      uint64
	sectorSize   int
	integrity    bool
	flags        []string
}

// parseMetadata checks the whole tree against the specification (section 3) and
// against the size of a header copy, and reads what this package needs.
func parseMetadata(doc object, hdrSize int64) (*metadata, error) {
	var (
		w    walker
		m    = metadata{doc: doc}
		root = node{obj: doc}
	)
	w.config(&m, w.object(root, "config"), hdrSize)
	keyslots := w.object(root, "keyslots")
	for _, id := range w.ids(keyslots) {
		m.slots = append(m.slots, w.keyslot(w.object(keyslots, strconv.Itoa(id)), id))
	}
	segments := w.object(root, "segments")
	for _, id := range w.ids(segments) {
		m.segments = append(m.segments, w.segment(w.object(segments, strconv.Itoa(id)), id))
	}
	digests := w.object(root, "digests")
	for _, id := range w.ids(digests) {
		n := w.object(digests, strconv.Itoa(id))
		d := w.digest(n, id)
		w.refer(n.at("keyslots"), d.keyslots, keyslots)
		w.refer(n.at("segments"), d.segments, segments)
		m.digests = append(m.digests, d)
	}
	tokens := w.object(root, "tokens")
	m.tokens = w.ids(tokens)
	for _, id := range m.tokens {
		n := w.object(tokens, strconv.Itoa(id))
		w.str(n, "type")
		w.refer(n.at("keyslots"), w.strs(n, "keyslots"), keyslots)
	}
	if len(m.segments) == 0 {
		w.fail("segments", "is empty")
	}
	if w.err != nil {
		return nil, w.err
	}
	return &m, m.checkAreas(hdrSize)
}

func (w *walker) config(m *metadata, n node, hdrSize int64) {
	if js := w.offset(n, "json_size"); js != hdrSize-binLen {
		w.fail(n.at("json_size"), "is %d, must be %d", js, hdrSize-binLen)
	}
	m.keyslotsSize = w.offset(n, "keyslots_size")
	if m.keyslotsSize%areaAlign != 0 || m.keyslotsSize > maxKeyslotsSize {
		w.fail(n.at("keyslots_size"), "%d must be a multiple of 4096 and at most %d", m.keyslotsSize, maxKeyslotsSize)
	}
	if n.has("flags") {
		m.flags = w.strs(n, "flags")
	}
	if n.has("requirements") {
		if r := w.object(n, "requirements"); r.has("mandatory") {
			m.requirements = w.strs(r, "mandatory")
		}
	}
}

func (w *walker) keyslot(n node, id int) keyslot {
	area := w.object(n, "area")
	w.str(area, "type")
	k := keyslot{
		id:         id,
		typ:        w.str(n, "type"),
		priority:   1,
		keySize:    int(w.num(n, "key_size", 0, maxKeySize)),
		areaOffset: w.offset(area, "offset"),
		areaSize:   w.offset(area, "size"),
	}
	if n.has("priority") {
		k.priority = int(w.num(n, "priority", 0, 2))
	}
	if k.typ != "luks2" {
		return k
	}
	if t, _ := area.obj["type"].(string); t != "raw" {
		w.fail(area.at("type"), "%q, want raw", t)
	}
	af := w.object(n, "af")
	if t := w.str(af, "type"); t != "luks1" {
		w.fail(af.at("type"), "%q, want luks1", t)
	}
	k.afHash = w.str(af, "hash")
	k.afStripes = int(w.num(af, "stripes", 1, math.MaxInt32))
	k.areaCipher = w.str(area, "encryption")
	k.areaKeySize = int(w.num(area, "key_size", 1, maxKeySize))
	kdf := w.object(n, "kdf")
	k.kdf.Type = w.str(kdf, "type")
	k.salt = w.bytes(kdf, "salt")
	switch k.kdf.Type {
	case KDFPBKDF2:
		k.kdf.Hash = w.str(kdf, "hash")
		k.kdf.Iterations = w.cost(kdf, "iterations")
	case KDFArgon2i, KDFArgon2id:
		k.kdf.Iterations = w.cost(kdf, "time")
		k.kdf.MemoryKiB = w.cost(kdf, "memory")
		k.kdf.Parallelism = w.cost(kdf, "cpus")
	}
	return k
}

// cost reads a KDF cost. The format allows uint32; what does not fit an int of a
// 32 bit machine is far beyond the limits anyway, so it is cut to the largest.
func (w *walker) cost(n node, key string) int {
	return int(min(w.num(n, key, 1, math.MaxUint32), math.MaxInt32))
}

func (w *walker) digest(n node, id int) digest {
	d := digest{id: id, typ: w.str(n, "type"), keyslots: w.strs(n, "keyslots"), segments: w.strs(n, "segments")}
	if d.typ == KDFPBKDF2 {
		d.hash = w.str(n, "hash")
		d.iterations = w.cost(n, "iterations")
		d.salt = w.bytes(n, "salt")
		d.digest = w.bytes(n, "digest")
	}
	return d
}

func (w *walker) segment(n node, id int) segment {
	s := segment{id: id, typ: w.str(n, "type"), offset: w.offset(n, "offset")}
	if w.str(n, "size") != "dynamic" {
		if s.size = w.offset(n, "size"); s.size == 0 {
			w.fail(n.at("size"), "is zero")
		}
	}
	if s.offset%512 != 0 || s.size%512 != 0 {
		w.fail(n.path, "offset and size must be multiples of 512")
	}
	if n.has("flags") {
		s.flags = w.strs(n, "flags")
	}
	if s.typ == "crypt" {
		s.cipher = w.str(n, "encryption")
		s.ivTweak = w.decimal(n, "iv_tweak")
		s.sectorSize = int(w.num(n, "sector_size", 512, 1<<20))
		if s.sectorSize%512 != 0 || s.size%int64(max(s.sectorSize, 1)) != 0 {
			w.fail(n.at("sector_size"), "%d must be a multiple of 512 and divide the segment size", s.sectorSize)
		}
		s.integrity = n.has("integrity")
	}
	return s
}

// refer checks that each name is a member of the section.
func (w *walker) refer(path string, names []string, section node) {
	for _, name := range names {
		if !section.has(name) {
			w.fail(path, "refers to %q, which is missing in %s", name, section.path)
		}
	}
}

// checkAreas wants every key slot area inside the key slots area, none over
// another, and the key slots area before the data.
func (m *metadata) checkAreas(hdrSize int64) error {
	begin := 2 * hdrSize
	end := begin + m.keyslotsSize
	for _, s := range m.segments {
		// Offset 0 is a detached header: the data is in another file.
		if s.offset != 0 && s.offset < end {
			return fmt.Errorf("segments.%d: offset %d is inside the key slots area, which ends at %d", s.id, s.offset, end)
		}
	}
	sorted := m.byOffset()
	for i, k := range sorted {
		if k.areaOffset < begin || k.areaSize <= 0 || k.areaOffset > end || k.areaSize > end-k.areaOffset {
			return fmt.Errorf("keyslots.%d.area: %d bytes at offset %d lie outside the key slots area (%d to %d)", k.id, k.areaSize, k.areaOffset, begin, end)
		}
		if i > 0 && sorted[i-1].areaOffset+sorted[i-1].areaSize > k.areaOffset {
			return fmt.Errorf("keyslots.%d.area: overlaps the area of slot %d", k.id, sorted[i-1].id)
		}
		if k.typ == "luks2" && int64(k.keySize)*afStripes > k.areaSize {
			return fmt.Errorf("keyslots.%d.area: size of %d bytes is too small for a key of %d bytes", k.id, k.areaSize, k.keySize)
		}
	}
	return nil
}

// byOffset gives the key slots in the order of their areas.
func (m *metadata) byOffset() []keyslot {
	sorted := slices.Clone(m.slots)
	slices.SortFunc(sorted, func(a, b keyslot) int { return cmp.Compare(a.areaOffset, b.areaOffset) })
	return sorted
}

// slot gives a key slot by number.
func (m *metadata) slot(id int) (keyslot, bool) {
	i := slices.IndexFunc(m.slots, func(k keyslot) bool { return k.id == id })
	if i < 0 {
		return keyslot{}, false
	}
	return m.slots[i], true
}

// digestOf gives the digest that a key slot's key is checked against, if that
// digest is the one of the data.
func (m *metadata) digestOf(slot int) (digest, bool) {
	for _, d := range m.digests {
		if slices.Contains(d.keyslots, strconv.Itoa(slot)) {
			return d, slices.Contains(d.segments, strconv.Itoa(m.segments[0].id))
		}
	}
	return digest{}, false
}
