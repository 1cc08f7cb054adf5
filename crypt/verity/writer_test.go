package verity_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"layervault/crypt/verity"
)

// hooked is a device whose writes can be held back, or fail.
type hooked struct {
	verity.ReadWriterAt
	after func(b []byte, at int64) (int, error)
}

func (h *hooked) WriteAt(b []byte, at int64) (int, error) {
	if n, err := h.ReadWriterAt.WriteAt(b, at); err != nil {
		return n, err
	}
	return h.after(b, at)
}

// TestSameBlockAtOnce: two writes of one block are under way at once, and the one that returns last is not the one that came last to the
// device. The tree is what the device has.
func TestSameBlockAtOnce(t *testing.T) {
	const size = 300 * block
	f := file(t, size+verity.Size(size))
	written, goOn := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	h := &hooked{f, func(b []byte, _ int64) (int, error) {
		if held.CompareAndSwap(false, true) { // the first write has come to the device, and does not return yet
			close(written)
			<-goOn
		}
		return len(b), nil
	}}
	w, err := verity.NewWriter(h, verity.Options{Limit: size})
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := w.WriteAt(random(1, 200*block), 0); err != nil {
			t.Error(err)
		}
	})
	<-written
	_, err = w.WriteAt(random(2, 200*block), 100*block)
	must(t, err)
	close(goOn)
	wg.Wait()
	tree, err := w.Finish(t.Context(), size)
	must(t, err)
	judge(t, f, tree)
}

// TestFailedWrite: nobody knows what a write that failed left: the device is asked.
func TestFailedWrite(t *testing.T) {
	const size = 300 * block
	f := file(t, size+verity.Size(size))
	failure := errors.New("no")
	for _, result := range []struct {
		n   int
		err error
	}{{block, failure}, {0, failure}, {block, nil}} {
		h := &hooked{ReadWriterAt: f}
		h.after = func(b []byte, _ int64) (int, error) {
			h.after = func(b []byte, _ int64) (int, error) { return len(b), nil }
			if _, err := f.WriteAt(random(3, 2*block), 100*block); err != nil {
				return 0, err
			}
			return result.n, result.err
		}
		w, err := verity.NewWriter(h, verity.Options{Limit: size})
		must(t, err)
		if n, err := w.WriteAt(random(4, 200*block), 50*block); n != result.n || !errors.Is(err, result.err) {
			t.Errorf("%d, %v", n, err)
		}
		tree, err := w.Finish(t.Context(), size)
		must(t, err)
		judge(t, f, tree)
	}
}

// full is a device that takes no write from an offset on.
type full struct {
	verity.ReadWriterAt
	from int64
}

func (f *full) WriteAt(b []byte, at int64) (int, error) {
	if at >= f.from {
		return 0, io.ErrShortWrite
	}
	return f.ReadWriterAt.WriteAt(b, at)
}

// TestScratchFails: hashes that could not be set aside are an error of the write, and of all that follows.
func TestScratchFails(t *testing.T) {
	o := verity.Options{Limit: 2 * verity.MemoryLimit}
	o.Scratch = o.Limit + verity.Size(o.Limit)
	w, err := verity.NewWriter(&full{newScattered(), o.Scratch}, o)
	must(t, err)
	for at := int64(0); at < verity.MemoryLimit; at += 8 << 20 { // one block for each page
		_, err := w.WriteAt(zeros[:block], at)
		must(t, err)
	}
	for range 2 {
		if _, err := w.WriteAt(zeros[:block], verity.MemoryLimit); !errors.Is(err, io.ErrShortWrite) {
			t.Error(err)
		}
	}
	if _, err := w.Finish(t.Context(), block); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
	// The tree itself does not fit.
	w, err = verity.NewWriter(&full{newScattered(), 2 * block}, verity.Options{Limit: 2 * block})
	must(t, err)
	if _, err := w.Finish(t.Context(), 2*block); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
}

// nowhere is a device that takes no time.
type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (nowhere) ReadAt(b []byte, _ int64) (int, error)  { clear(b); return len(b), nil }

// BenchmarkStream is what hashing adds to the writing of 1 MiB; BenchmarkSHA256 is crypto/sha256 alone on the same blocks.
func BenchmarkStream(b *testing.B) {
	o := verity.Options{Limit: verity.MaxBlocks * block}
	o.Scratch = o.Limit + verity.Size(o.Limit)
	w, err := verity.NewWriter(nowhere{}, o)
	must(b, err)
	data := random(1, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	at := int64(0)
	for b.Loop() {
		_, err := w.WriteAt(data, at)
		must(b, err)
		at += 1 << 20
	}
}

func BenchmarkSHA256(b *testing.B) {
	data := random(1, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		for at := 0; at < len(data); at += block {
			sha256.Sum256(data[at : at+block])
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	f, tree := made(b, 16<<20/block)
	b.SetBytes(16 << 20)
	for b.Loop() {
		must(b, verity.Verify(b.Context(), f, tree, verity.Checking{}))
	}
}
