package verity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"layervault/crypt/verity"
)

// made is a file with random data and its tree.
func made(t testing.TB, blocks int64) (*os.File, verity.Tree) {
	t.Helper()
	size := blocks * block
	f := file(t, size+verity.Size(size))
	w, err := verity.NewWriter(f, verity.Options{Limit: size})
	must(t, err)
	_, err = w.WriteAt(random(uint64(blocks), int(size)), 0)
	must(t, err)
	tree, err := w.Finish(t.Context(), size)
	must(t, err)
	return f, tree
}

// flip changes one bit.
func flip(t testing.TB, f *os.File, at int64) {
	t.Helper()
	var b [1]byte
	_, err := f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// TestVerify: each bit that is changed is found, and its block named. The tree has two blocks
// below the top, and 130 below these.
func TestVerify(t *testing.T) {
	const blocks = 128*128 + 200
	f, tree := made(t, blocks)
	if tree.HashBlocks() != 1+2+130 {
		t.Fatalf("%d blocks in the tree", tree.HashBlocks())
	}
	for _, tt := range []struct {
		at        int64 // of the bit
		want      verity.BadBlock
		unchecked uint64
	}{
		{0, verity.BadBlock{Block: 0}, 0},
		{blocks*block - 1, verity.BadBlock{Block: blocks - 1}, 0},
		{blocks * block, verity.BadBlock{Block: blocks, Level: 3}, blocks},
		{(blocks+1)*block - 1, verity.BadBlock{Block: blocks, Level: 3}, blocks}, // in the padding
		{(blocks + 1) * block, verity.BadBlock{Block: blocks + 1, Level: 2}, 128 * 128},
		{(blocks + 3) * block, verity.BadBlock{Block: blocks + 3, Level: 1}, 128},
		{(blocks+3+130)*block - 1, verity.BadBlock{Block: blocks + 3 + 129, Level: 1}, blocks - 129*128},
	} {
		t.Run(fmt.Sprint(tt.want), func(t *testing.T) {
			flip(t, f, tt.at)
			defer flip(t, f, tt.at)
			err := verity.Verify(t.Context(), f, tree, verity.Checking{MaxBad: 100})
			var corrupt *verity.CorruptError
			if !errors.Is(err, verity.ErrCorrupt) || !errors.As(err, &corrupt) {
				t.Fatal(err)
			}
			if len(corrupt.Bad) != 1 || corrupt.Bad[0] != tt.want || corrupt.Unchecked != tt.unchecked || corrupt.Stopped {
				t.Errorf("%v", err)
			}
			if !strings.Contains(err.Error(), tt.want.String()) {
				t.Errorf("text %q", err)
			}
		})
	}
	must(t, verity.Verify(t.Context(), f, tree, verity.Checking{}))
	// Another root hash, or salt, is another tree.
	for _, change := range []func(*verity.Tree){func(t *verity.Tree) { t.Root[31] ^= 1 }, func(t *verity.Tree) { t.Salt[0] ^= 1 }} {
		other := tree
		change(&other)
		var corrupt *verity.CorruptError
		if err := verity.Verify(t.Context(), f, other, verity.Checking{MaxBad: 2}); !errors.As(err, &corrupt) || corrupt.Unchecked != blocks {
			t.Error(err)
		}
	}
}

// TestVerifyStops: no more blocks are listed than asked for, and the rest is not read.
func TestVerifyStops(t *testing.T) {
	f, tree := made(t, 3000)
	for n := range int64(20) {
		flip(t, f, n*100*block+5)
	}
	for _, maxBad := range []int{0, 1, 7, 20, 21} {
		var last uint64
		err := verity.Verify(t.Context(), f, tree, verity.Checking{MaxBad: maxBad, Progress: func(done, total uint64) {
			if done <= last || done > total || total != 3000 {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		}})
		var corrupt *verity.CorruptError
		if !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
		want := min(max(maxBad, 1), 20)
		if len(corrupt.Bad) != want || corrupt.Bad[want-1].Block != uint64(want-1)*100 || corrupt.Stopped != (maxBad <= 20) {
			t.Errorf("at most %d: %v", maxBad, err)
		}
		if whole := last == 3000; whole != (maxBad > 20) {
			t.Errorf("at most %d: %d blocks done", maxBad, last)
		}
		if len(corrupt.Bad) > 8 && !strings.Contains(err.Error(), "and 12 more") {
			t.Errorf("text %q", err)
		}
	}
}

func TestVerifyErrors(t *testing.T) {
	f, tree := made(t, 2000)
	ctx, cancel := context.WithCancel(t.Context())
	err := verity.Verify(ctx, f, tree, verity.Checking{Progress: func(uint64, uint64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	bad := tree
	bad.HashStart--
	if err := verity.Verify(t.Context(), f, bad, verity.Checking{}); !errors.Is(err, verity.ErrGeometry) {
		t.Error(err)
	}
	must(t, f.Truncate(tree.End()-block))
	if err := verity.Verify(t.Context(), f, tree, verity.Checking{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the tree is cut off: %v", err)
	}
	must(t, f.Truncate(1000*block))
	if err := verity.Verify(t.Context(), f, tree, verity.Checking{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the data is cut off: %v", err)
	}
}
