package verity_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"layervault/crypt/verity"
)

// fixture is the tree in testdata/tree-v1.bin.
var fixture = verity.Tree{
	Root: [32]byte(bytes.Repeat([]byte{0xa1, 0xb2}, 16)), Salt: [32]byte(bytes.Repeat([]byte{3}, 32)), DataBlocks: 0x12345, HashStart: 0x23456,
}

// The frozen encoding of version 1 stays readable, and is what is written.
func TestFixture(t *testing.T) {
	b, err := os.ReadFile("testdata/tree-v1.bin")
	must(t, err)
	var got verity.Tree
	must(t, got.UnmarshalBinary(b))
	if got != fixture {
		t.Errorf("%+v, want %+v", got, fixture)
	}
	if again, err := fixture.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("%x, %v", again, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	good, err := fixture.MarshalBinary()
	must(t, err)
	if len(good) != verity.EncodedSize {
		t.Errorf("%d bytes", len(good))
	}
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	// want nil: a *verity.VersionError.
	for name, tt := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":               {nil, verity.ErrEncoding},
		"cut off":             {good[:len(good)-1], verity.ErrEncoding},
		"longer":              {append(bytes.Clone(good), 0), verity.ErrEncoding},
		"magic":               {change(0, 'X'), verity.ErrEncoding},
		"hash":                {change(6, 2), verity.ErrEncoding},
		"block size":          {change(7, 9), verity.ErrEncoding},
		"no data":             {change(8, 0, 0, 0, 0, 0, 0, 0, 0), verity.ErrGeometry},
		"too much data":       {change(8, 0xff), verity.ErrGeometry},
		"tree within data":    {change(16, 0, 0, 0, 0, 0, 1, 0x23, 0x44), verity.ErrGeometry},
		"tree far behind":     {change(16, 0, 0, 0, 1, 0, 0, 0, 1), verity.ErrGeometry},
		"version 2":           {change(4, 0, 2), nil},
		"version 2, other":    {change(4, 0, 2)[:20], nil},
		"version 0":           {change(4, 0, 0), nil},
		"version of two byte": {change(4, 1, 1), nil},
	} {
		tree := verity.Tree{DataBlocks: 7}
		err := tree.UnmarshalBinary(tt.b)
		var version *verity.VersionError
		if wantVersion := tt.want == nil; wantVersion != errors.As(err, &version) || !wantVersion && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if tree != (verity.Tree{DataBlocks: 7}) {
			t.Errorf("%s: the tree was changed", name)
		}
	}
	if _, err := new(verity.Tree).MarshalBinary(); !errors.Is(err, verity.ErrGeometry) {
		t.Errorf("the zero value: %v", err)
	}
}

// What is read is a tree with bounded numbers, and written it is the same bytes.
func FuzzTree(f *testing.F) {
	good, err := fixture.MarshalBinary()
	must(f, err)
	f.Add(good)
	f.Add(good[:40])
	f.Add(append(bytes.Clone(good), 1))
	largest, err := verity.Tree{DataBlocks: verity.MaxBlocks, HashStart: verity.MaxBlocks}.MarshalBinary()
	must(f, err)
	f.Add(largest)
	f.Fuzz(func(t *testing.T, b []byte) {
		var tree verity.Tree
		if tree.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := tree.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		if n := tree.HashBlocks(); n > tree.DataBlocks || tree.End() < int64(tree.DataBlocks)*verity.BlockSize {
			t.Fatalf("%+v: %d blocks of hashes, end at %d", tree, n, tree.End())
		}
	})
}

// TestGeometry: the numbers of the largest trees.
func TestGeometry(t *testing.T) {
	for blocks, want := range map[uint64]uint64{
		1: 0, 2: 1, 128: 1, 129: 3, 128 * 128: 129, 128*128 + 1: 1 + 2 + 129, verity.MaxBlocks: 1<<25 + 1<<18 + 1<<11 + 1<<4 + 1,
	} {
		tree := verity.Tree{DataBlocks: blocks, HashStart: blocks}
		if got := tree.HashBlocks(); got != want {
			t.Errorf("%d data blocks: %d blocks of hashes, want %d", blocks, got, want)
		}
		if got := verity.Size(int64(blocks) * block); got != int64(want)*block {
			t.Errorf("%d data blocks: %d bytes of hashes", blocks, got)
		}
	}
}
