package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"runtime/metrics"
	"strings"
	"testing"
)

// maxDecodeBytes is what reading a ring of n bytes may allocate. JSON is walked several
// times and its parts are copied; a slot of few bytes becomes a struct of a hundred. What
// must not be is a small file that takes much memory.
func maxDecodeBytes(n int) uint64 { return 4<<20 + 128*uint64(n) }

// allocated is all that was ever allocated on the heap, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// withChecksum gives a ring's text the checksum that fits, so that fuzzing gets past it.
func withChecksum(data []byte) []byte {
	var file map[string]json.RawMessage
	if json.Unmarshal(data, &file) != nil {
		return data
	}
	var ring bytes.Buffer
	if json.Compact(&ring, file["ring"]) != nil {
		return data
	}
	sum := sha256.Sum256(ring.Bytes())
	file["checksum"] = json.RawMessage(`"sha256:` + hex.EncodeToString(sum[:]) + `"`)
	out, err := json.Marshal(file)
	if err != nil {
		return data
	}
	return out
}

// seedRings are rings of each version, and what breaks decoders.
func seedRings(tb testing.TB) [][]byte {
	tb.Helper()
	var out [][]byte
	for _, frozen := range []string{"format1", "format1-rotating", "format2", "format2-rotating"} {
		data, err := os.ReadFile("testdata/" + frozen + "/keyring.json")
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, data, data[:len(data)/2])
		for _, swap := range [][2]string{
			{`"version": 2`, `"version": 1`}, {`"version": 1`, `"version": 2`}, {`"floor": 2`, `"floor": 9`},
			{`"provider"`, `"Provider"`}, {`"id"`, `"ID"`}, {`"generation": `, `"generation": -`}, {`"slots": [`, `"slots": [null,`},
			{`"blob": {`, `"blob": [{`}, {`"ring": {`, `"ring": {"ring": {}, `}, {`"macs": {`, `"macs": {"slots": null, `},
		} {
			out = append(out, bytes.Replace(bytes.Clone(data), []byte(swap[0]), []byte(swap[1]), 1))
		}
	}
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000)
	slots := strings.TrimSuffix(strings.Repeat(`{"id":"a","provider":"b","created":"2026-01-01T00:00:00Z","blob":{}},`, 5000), ",")
	return append(out,
		[]byte("null"), nil, []byte(`{"version":1,"checksum":"","ring":{}}`), []byte(`{"version":2,"checksum":"","ring":null,"macs":{}}`),
		[]byte(`{"version":2,"checksum":"","ring":{"slots":`+deep+`},"macs":{}}`),
		[]byte(`{"version":2,"checksum":"","ring":{"slots":[`+slots+`]},"macs":{"slots":{}}}`),
		[]byte(`{"version":2,"checksum":"","ring":{"created":"`+strings.Repeat("9", 1<<16)+`"},"macs":{}}`))
}

// Any file is a ring, damage or a newer version, and takes little memory to find out; a
// ring survives being written again; one that the frozen key's holder did not write is
// never taken for genuine.
func FuzzRing(f *testing.F) {
	for _, data := range seedRings(f) {
		f.Add(data)
	}
	key, err := tierKeyFrom(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = key.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxRingBytes {
			return // not read, see readCopy
		}
		for _, data := range [][]byte{data, withChecksum(data)} {
			before := allocated()
			body, err := decodeRing(data)
			if took := allocated() - before; took > maxDecodeBytes(len(data)) {
				t.Fatalf("%d bytes took %d of memory", len(data), took)
			}
			if err != nil {
				if !errors.Is(err, errDamagedCopy) && !errors.Is(err, ErrNewerRing) {
					t.Fatalf("untyped error: %v", err)
				}
				continue
			}
			if body.version > 1 {
				if err := body.authentic(key); !errors.Is(err, ErrForgedRing) {
					t.Fatalf("genuine: %v", err)
				}
			}
			again, err := encodeRing(body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeRing(again); err != nil {
				t.Fatalf("does not read what it wrote: %v", err)
			}
			signed := body.clone()
			if err := signed.sign(key); err != nil {
				t.Fatal(err)
			}
			text, err := encodeRing(signed)
			if err != nil {
				t.Fatal(err)
			}
			back, err := decodeRing(text)
			if err != nil {
				t.Fatalf("does not read what it signed: %v", err)
			}
			if err := back.prove(key); err != nil {
				t.Fatalf("does not prove what it signed: %v", err)
			}
		}
	})
}
