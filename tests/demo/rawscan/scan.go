// Command rawscan looks for markers on a raw disk: the canary check of make demo.
//
//	rawscan DISK < MARKERS
//
// Each line of MARKERS is "ENGINE PATH HEX": HEX is a 32-byte marker in hex, whose
// first 16 bytes are the same for all of them, so that one search of the disk
// finds every marker. The program prints a table and exits 1 if a marker of the engine layervault is
// anywhere on the disk, or if one of the engine overlay2 is nowhere: without the
// second, an empty result would prove nothing.
package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	markerSize = 32
	prefixSize = 16
	// readSize is how much of the disk is read at once: large reads are what a disk
	// is fastest at, and this much memory is nothing.
	readSize = 8 << 20
)

// marker is what was written through one engine on one path.
type marker struct {
	engine, path string
	bytes        [markerSize]byte
}

// parseMarkers reads the list; it must hold at least one marker of each engine.
func parseMarkers(text string) ([]marker, error) {
	var list []marker
	engines := map[string]bool{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("marker %q is not ENGINE PATH HEX", strings.TrimSpace(line))
		}
		raw, err := hex.DecodeString(f[2])
		if err != nil || len(raw) != markerSize {
			return nil, fmt.Errorf("marker of %s %s is not %d bytes in hex", f[0], f[1], markerSize)
		}
		m := marker{engine: f[0], path: f[1], bytes: [markerSize]byte(raw)}
		if len(list) > 0 && !bytes.Equal(m.bytes[:prefixSize], list[0].bytes[:prefixSize]) {
			return nil, fmt.Errorf("marker of %s %s begins unlike the others", f[0], f[1])
		}
		engines[m.engine] = true
		list = append(list, m)
	}
	if !engines["layervault"] || !engines["overlay2"] {
		return nil, errors.New("there must be markers of layervault and, to prove that they can be found, of overlay2")
	}
	return list, nil
}

// scan counts how often each marker is on the disk, at whatever offset. Unknown
// counts markers cut short or otherwise garbled after their prefix: they are
// plaintext too.
func scan(disk io.Reader, list []marker) (found map[[markerSize]byte]int, unknown int, err error) {
	found = make(map[[markerSize]byte]int)
	known := make(map[[markerSize]byte]bool)
	for _, m := range list {
		known[m.bytes] = true
	}
	prefix := list[0].bytes[:prefixSize]
	// What may begin a marker at the end of one read is kept in front of the next.
	buf := make([]byte, readSize+markerSize)
	kept := 0
	for {
		n, readErr := io.ReadFull(disk, buf[kept:kept+readSize])
		last := errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF)
		if readErr != nil && !last {
			return nil, 0, readErr
		}
		data := buf[:kept+n]
		at := 0
		for {
			i := bytes.Index(data[at:], prefix)
			if i < 0 {
				break
			}
			at += i
			if len(data)-at < markerSize && !last {
				break
			}
			var m [markerSize]byte
			copy(m[:], data[at:])
			if known[m] {
				found[m]++
			} else {
				unknown++
			}
			at += prefixSize
		}
		if last {
			return found, unknown, nil
		}
		// Whole markers up to here were counted: keep less than one, from the last
		// place that was not looked at.
		from := max(at, len(data)-(markerSize-1))
		if j := bytes.Index(data[at:], prefix); j >= 0 {
			from = at + j
		}
		kept = copy(buf, data[from:])
	}
}
