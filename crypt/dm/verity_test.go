package dm

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVerityTarget(t *testing.T) {
	v := VerityTable{DataDev: unix.Mkdev(253, 300), HashDev: unix.Mkdev(7, 4), DataBlocks: 1 << 32, HashStart: 1<<32 + 5}
	copy(v.Root[:], bytes.Repeat([]byte{0xab, 1}, 16))
	copy(v.Salt[:], bytes.Repeat([]byte{0, 0xcd}, 16))
	want := "1 253:300 7:4 4096 4096 4294967296 4294967301 sha256 " + strings.Repeat("ab01", 16) + " " + strings.Repeat("00cd", 16)
	if got := v.target(); got.Params != want || got.Type != "verity" || got.Start != 0 || got.Length != 1<<35 {
		t.Errorf("%+v, want %s", got, want)
	}
	// Options would follow the ten words.
	if words := strings.Fields((VerityTable{}).target().Params); len(words) != 10 {
		t.Errorf("%q", words)
	}
}

func TestVerityCorrupted(t *testing.T) {
	for status, want := range map[Target]bool{
		{Type: "verity", Params: "V"}: false, {Type: "verity", Params: "V -"}: false, {Type: "verity", Params: "C"}: true, {Type: "verity", Params: "C -"}: true,
		{Type: "crypt", Params: "C"}: false, {}: false,
	} {
		if got := VerityCorrupted(status); got != want {
			t.Errorf("%+v: %t", status, got)
		}
	}
}
