package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// The fixed part of every request, struct dm_ioctl. Each field lies at its natural
// alignment, so that the layout is the same on 32 and 64 bit; numbers are in the
// byte order of the machine. data[7] at its end is padding and is skipped: the
// kernel takes the variable part from data_start.
const (
	offVersion     = 0   // [3]uint32
	offDataSize    = 12  // uint32: of the whole request, this header included
	offDataStart   = 16  // uint32
	offTargetCount = 20  // uint32
	offOpenCount   = 24  // int32
	offFlags       = 28  // uint32
	offEventNr     = 32  // uint32
	offDev         = 40  // uint64
	offName        = 48  // [128]byte
	offUUID        = 176 // [129]byte
	headerSize     = 312 // the size encoded in each ioctl number
)

// struct dm_target_spec: the line of a table, followed by its parameters and a NUL.
const (
	specStart  = 0  // uint64, in 512 byte sectors
	specLength = 8  // uint64
	specStatus = 16 // int32
	specNext   = 20 // uint32
	specType   = 24 // [16]byte
	specSize   = 40
)

var native = binary.NativeEndian

// request builds a message of size bytes in all for the device name.
func newRequest(size int, name, uuid string, flags uint32) []byte {
	b := make([]byte, max(size, headerSize))
	native.PutUint32(b[offVersion:], unix.DM_VERSION_MAJOR)
	native.PutUint32(b[offDataSize:], uint32(len(b)))
	native.PutUint32(b[offDataStart:], headerSize)
	native.PutUint32(b[offFlags:], flags)
	copy(b[offName:offUUID-1], name)
	copy(b[offUUID:offUUID+unix.DM_UUID_LEN-1], uuid)
	return b
}

// Target is one line of a table.
type Target struct {
	Start  uint64 // first sector of the device it covers, 512 bytes each
	Length uint64 // sectors
	Type   string // "crypt", "linear", ...
	Params string // what the target's documentation says; Status puts its report here
}

// encodeTargets is the variable part of DM_TABLE_LOAD. For this direction "next" is
// the distance from one spec to the following one.
func encodeTargets(targets []Target) ([]byte, error) {
	var out []byte
	for _, t := range targets {
		if t.Type == "" || len(t.Type) >= unix.DM_MAX_TYPE_NAME {
			return nil, fmt.Errorf("%w: target type %q", ErrTarget, t.Type)
		}
		if strings.IndexByte(t.Params, 0) >= 0 {
			return nil, fmt.Errorf("%w: parameters of %s contain NUL", ErrTarget, t.Type)
		}
		next := align8(specSize + len(t.Params) + 1)
		spec := make([]byte, next)
		native.PutUint64(spec[specStart:], t.Start)
		native.PutUint64(spec[specLength:], t.Length)
		native.PutUint32(spec[specNext:], uint32(next))
		copy(spec[specType:], t.Type)
		copy(spec[specSize:], t.Params)
		out = append(out, spec...)
		clear(spec)
	}
	return out, nil
}

// decodeTargets reads the answer of DM_TABLE_STATUS. Here "next" counts from the
// first spec.
func decodeTargets(data []byte, count uint32) ([]Target, error) {
	targets := make([]Target, 0, min(count, 64))
	at := 0
	for range count {
		if at < 0 || at+specSize > len(data) {
			return nil, fmt.Errorf("device-mapper table: entry offset %d exceeds %d bytes", at, len(data))
		}
		spec := data[at:]
		targets = append(targets, Target{
			Start:  native.Uint64(spec[specStart:]),
			Length: native.Uint64(spec[specLength:]),
			Type:   cstring(spec[specType:specSize]),
			Params: cstring(spec[specSize:]),
		})
		at = int(native.Uint32(spec[specNext:]))
	}
	return targets, nil
}

// NameEntry is one device in List.
type NameEntry struct {
	Name string
	Dev  uint64 // as unix.Mkdev gives it
}

// decodeNames reads the answer of DM_LIST_DEVICES, a chain of struct dm_name_list:
// dev u64, next u32 (from this entry, 0 at the last), name.
func decodeNames(data []byte) ([]NameEntry, error) {
	if len(data) == 0 {
		return nil, nil // as a kernel without any device answers
	}
	var names []NameEntry
	for at := 0; ; {
		if at+12 > len(data) {
			return nil, fmt.Errorf("device-mapper list: entry offset %d exceeds %d bytes", at, len(data))
		}
		dev := native.Uint64(data[at:])
		if dev == 0 && len(names) == 0 {
			return nil, nil // no device at all is one entry of zeros
		}
		names = append(names, NameEntry{Name: cstring(data[at+12:]), Dev: dev})
		next := int(native.Uint32(data[at+8:]))
		if next == 0 {
			return names, nil
		}
		at += next
	}
}

// decodeDeps reads struct dm_target_deps: count u32, padding, dev u64 each.
func decodeDeps(data []byte) ([]uint64, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("device-mapper dependencies: answer too short, %d bytes", len(data))
	}
	count := int(native.Uint32(data))
	if count < 0 || count > (len(data)-8)/8 {
		return nil, fmt.Errorf("device-mapper dependencies: %d entries do not fit %d bytes", count, len(data))
	}
	deps := make([]uint64, count)
	for i := range deps {
		deps[i] = native.Uint64(data[8+8*i:])
	}
	return deps, nil
}

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func align8(n int) int { return (n + 7) &^ 7 }

// checkName refuses what the kernel would cut short or mangle.
func checkName(s string, limit int) error {
	if len(s) >= limit {
		return fmt.Errorf("%w: %d bytes, limit is %d", ErrBadName, len(s), limit-1)
	}
	if strings.ContainsAny(s, "/\x00") {
		return fmt.Errorf("%w: %q", ErrBadName, s)
	}
	return nil
}
