package verity_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"layervault/crypt/verity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const block = verity.BlockSize

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// random is n bytes that depend on the seed only.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func salt(seed uint64) *[verity.SaltSize]byte {
	return (*[verity.SaltSize]byte)(random(seed, verity.SaltSize))
}

// file is an empty file that is as long as a device with room for everything.
func file(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	must(t, f.Truncate(size))
	return f
}

// stock is what veritysetup makes of the first blocks of a file: root hash and tree.
func stock(t testing.TB, f *os.File, tree verity.Tree) (root, hashes []byte) {
	t.Helper()
	dir := t.TempDir()
	data, rootFile := filepath.Join(dir, "data"), filepath.Join(dir, "root")
	size := int64(tree.DataBlocks) * block
	to, err := os.Create(data)
	must(t, err)
	_, err = io.Copy(to, io.NewSectionReader(f, 0, size))
	must(t, errors.Join(err, to.Close()))
	veritysetup(t, "format", "--root-hash-file="+rootFile, "--salt="+hex.EncodeToString(tree.Salt[:]), tree, data, data)
	text, err := os.ReadFile(rootFile)
	must(t, err)
	root, err = hex.DecodeString(string(bytes.TrimSpace(text)))
	must(t, err)
	all, err := os.ReadFile(data)
	must(t, err)
	return root, all[size:]
}

func veritysetup(t testing.TB, verb string, args ...any) {
	t.Helper()
	words := []string{verb, "--no-superblock", "--hash=sha256", "--format=1", "--data-block-size=4096", "--hash-block-size=4096"}
	for _, a := range args {
		if tree, ok := a.(verity.Tree); ok {
			words = append(words, fmt.Sprintf("--data-blocks=%d", tree.DataBlocks), fmt.Sprintf("--hash-offset=%d", tree.HashStart*block))
		} else {
			words = append(words, fmt.Sprint(a))
		}
	}
	if out, err := exec.Command("veritysetup", words...).CombinedOutput(); err != nil {
		t.Fatalf("veritysetup %q: %v\n%s", words, err, out)
	}
}

// judge wants the tree that veritysetup makes, and that it, veritysetup and Verify find it
// right.
func judge(t testing.TB, f *os.File, tree verity.Tree) {
	t.Helper()
	root, hashes := stock(t, f, tree)
	if !bytes.Equal(root, tree.Root[:]) {
		t.Errorf("root hash %x, veritysetup's is %x", tree.Root, root)
	}
	have := make([]byte, tree.HashBlocks()*block)
	if _, err := f.ReadAt(have, int64(tree.HashStart)*block); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, hashes) {
		for i := range have {
			if i >= len(hashes) || have[i] != hashes[i] {
				t.Fatalf("tree of %d bytes, veritysetup's has %d: different from byte %d on", len(have), len(hashes), i)
			}
		}
		t.Fatalf("tree of %d bytes, veritysetup's has %d", len(have), len(hashes))
	}
	veritysetup(t, "verify", "--salt="+hex.EncodeToString(tree.Salt[:]), tree, f.Name(), f.Name(), hex.EncodeToString(tree.Root[:]))
	must(t, verity.Verify(t.Context(), f, tree, verity.Checking{}))
}

// TestSizes: whatever the number of blocks, root hash and tree are veritysetup's.
func TestSizes(t *testing.T) {
	sizes := []int{1, 2, 3, 127, 128, 129, 255, 256, 257, 128 * 128, 128*128 + 1, 2*128*128 + 77}
	for i := range 4 {
		sizes = append(sizes, 1+int(rand.New(rand.NewPCG(7, uint64(i))).Uint32N(4000)))
	}
	for _, blocks := range sizes {
		t.Run(fmt.Sprint(blocks), func(t *testing.T) {
			size := int64(blocks) * block
			f := file(t, size+verity.Size(size))
			o := verity.Options{Limit: size, Salt: salt(uint64(blocks))}
			if size > verity.MemoryLimit {
				o.Scratch = size + verity.Size(size)
			}
			w, err := verity.NewWriter(f, o)
			must(t, err)
			data := random(uint64(blocks), int(size))
			for at := 0; at < len(data); at += 1 << 20 {
				_, err := w.WriteAt(data[at:min(at+1<<20, len(data))], int64(at))
				must(t, err)
			}
			tree, err := w.Finish(t.Context(), size)
			must(t, err)
			if tree.DataBlocks != uint64(blocks) || tree.HashStart != uint64(blocks) || tree.End() != size+verity.Size(size) || tree.Salt != *salt(uint64(blocks)) {
				t.Errorf("%+v", tree)
			}
			judge(t, f, tree)
		})
	}
}

// TestOrders: blocks come in any order, from several goroutines, again with other content, in
// part, or not at all.
func TestOrders(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			blocks := 1 + rnd.IntN(2000)
			size := int64(blocks) * block
			limit := size + int64(rnd.IntN(3))*block
			f := file(t, limit+verity.Size(limit)+16*block)
			// What blocks hold that are not written.
			_, err := f.WriteAt(random(seed+100, int(size)), 0)
			must(t, err)
			w, err := verity.NewWriter(f, verity.Options{Limit: limit})
			must(t, err)
			content := random(seed, 4<<20)
			var wg sync.WaitGroup
			for worker := range 4 {
				rnd := rand.New(rand.NewPCG(seed, uint64(worker)+2))
				wg.Go(func() {
					for range 30 {
						at := int64(rnd.IntN(blocks)) * block
						n := (1 + rnd.IntN(200)) * block
						if rnd.IntN(4) == 0 { // not in whole blocks
							at += int64(rnd.IntN(block))
							n -= rnd.IntN(block)
						}
						if at+int64(n) > limit+16*block {
							continue
						}
						if _, err := w.WriteAt(content[rnd.IntN(len(content)-n):][:n], at); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			tree, err := w.Finish(t.Context(), size)
			must(t, err)
			judge(t, f, tree)
		})
	}
}

// TestUnwritten: nothing was written at all.
func TestUnwritten(t *testing.T) {
	const size = 700 * block
	f := file(t, size+verity.Size(size))
	w, err := verity.NewWriter(f, verity.Options{Limit: size})
	must(t, err)
	tree, err := w.Finish(t.Context(), size)
	must(t, err)
	judge(t, f, tree)
}

// scattered is a device of 16 TiB of which little is kept: blocks by their number.
type scattered struct {
	mu     sync.Mutex
	blocks map[int64][]byte // those that are not all zeros
	reads  map[int64]int    // of each block
}

var zeros = make([]byte, 1<<20)

func newScattered() *scattered {
	return &scattered{blocks: map[int64][]byte{}, reads: map[int64]int{}}
}

func (s *scattered) WriteAt(b []byte, at int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(b); i += block {
		if n := (at + int64(i)) / block; bytes.Equal(b[i:i+block], zeros[:block]) {
			delete(s.blocks, n)
		} else {
			s.blocks[n] = bytes.Clone(b[i : i+block])
		}
	}
	return len(b), nil
}

func (s *scattered) ReadAt(b []byte, at int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i < len(b); i += block {
		clear(b[i : i+block])
		copy(b[i:], s.blocks[(at+int64(i))/block])
		s.reads[(at+int64(i))/block]++
	}
	return len(b), nil
}

// TestScratch: more hashes than there is memory for go to the scratch area, and come back,
// with the tree that the same data has where memory suffices.
func TestScratch(t *testing.T) {
	const size = 3 * verity.MemoryLimit / 2
	o := verity.Options{Limit: verity.MaxBlocks * block, Salt: salt(1)}
	o.Scratch = o.Limit + verity.Size(o.Limit)
	s := newScattered()
	w, err := verity.NewWriter(s, o)
	must(t, err)
	for _, pass := range []int64{0, 1} { // each page is used twice, far apart
		for at := pass << 20; at < size; at += 2 << 20 {
			_, err := w.WriteAt(zeros, at)
			must(t, err)
		}
	}
	set := 0
	for n := range s.blocks {
		if n*block >= o.Scratch {
			set++
		}
		if n*block >= o.Scratch+verity.ScratchSize(o.Limit) {
			t.Fatalf("block %d is behind the scratch area", n)
		}
	}
	if set == 0 {
		t.Fatal("nothing was set aside")
	}
	tree, err := w.Finish(t.Context(), size)
	must(t, err)
	for n := range s.reads {
		if n < size/block {
			t.Fatalf("block %d was read again, so its hash was lost", n)
		}
	}
	must(t, verity.Verify(t.Context(), s, tree, verity.Checking{}))
	plain, err := verity.NewWriter(newScattered(), o)
	must(t, err)
	other, err := plain.Finish(t.Context(), size)
	must(t, err)
	if tree != other {
		t.Errorf("%+v, want %+v", tree, other)
	}
}

func TestFinishErrors(t *testing.T) {
	const limit = 10 * block
	for _, size := range []int64{0, -block, 1, limit + block} {
		w, err := verity.NewWriter(file(t, limit), verity.Options{Limit: limit})
		must(t, err)
		if _, err := w.Finish(t.Context(), size); !errors.Is(err, verity.ErrGeometry) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	f := file(t, limit+verity.Size(limit))
	w, err := verity.NewWriter(f, verity.Options{Limit: limit})
	must(t, err)
	_, err = w.Finish(t.Context(), limit)
	must(t, err)
	if _, err := w.Finish(t.Context(), limit); !errors.Is(err, verity.ErrFinished) {
		t.Errorf("twice: %v", err)
	}
	if _, err := w.WriteAt(make([]byte, block), 0); !errors.Is(err, verity.ErrFinished) {
		t.Errorf("a write after the end: %v", err)
	}
	cut := file(t, 5*block)
	w, err = verity.NewWriter(cut, verity.Options{Limit: limit})
	must(t, err)
	if _, err := w.Finish(t.Context(), limit); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("blocks that are not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w, err = verity.NewWriter(f, verity.Options{Limit: limit})
	must(t, err)
	if _, err := w.Finish(ctx, limit); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestOptions(t *testing.T) {
	f := file(t, 0)
	const large = verity.MemoryLimit + block
	for _, o := range []verity.Options{
		{}, {Limit: -block}, {Limit: block + 1}, {Limit: verity.MaxBlocks*block + block}, {Limit: large},
		{Limit: large, Scratch: large}, {Limit: large, Scratch: 2*large + 1},
	} {
		if _, err := verity.NewWriter(f, o); !errors.Is(err, verity.ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	_, err := verity.NewWriter(f, verity.Options{Limit: verity.MemoryLimit})
	must(t, err)
}
