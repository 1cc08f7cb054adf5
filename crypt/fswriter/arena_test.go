package fswriter

import (
	"bytes"
	"testing"
)

// One image at a time has the heap: the next maps its memory, until the first is done.
func TestHeapIsLentOnce(t *testing.T) {
	heap := new(Heap)
	first, second := NewArena(heap), NewArena(heap)
	mapped := func(a *Arena) bool {
		t.Helper()
		a.share = pageSize
		if _, err := a.Alloc(pageSize); err != nil {
			t.Fatal(err)
		}
		return len(a.pieces) > 0
	}
	if mapped(first) || !mapped(second) {
		t.Error("the heap is for the first image, and not for the second")
	}
	second.Free()
	if third := NewArena(heap); !mapped(third) {
		t.Error("the heap was lent twice")
	} else {
		third.Free()
	}
	first.Free()
	first.Free() // as Abort after Close
	if again := NewArena(heap); mapped(again) {
		t.Error("the heap was not given back")
	}
}

// An image that outgrows the heap moves its pages out of it, with what they hold.
func TestPagesLeaveTheHeap(t *testing.T) {
	const heapShare = 24 << 20
	memory := &Arena{share: heapShare}
	p := &Pager{memory: memory, most: 224}
	memory.outgrown = p.leaveHeap
	defer memory.Free()
	const pages = 20
	for n := range pages {
		copy(p.Page(n, true), bytes.Repeat([]byte{byte(n + 1)}, pageSize))
	}
	if len(memory.pieces) != 0 {
		t.Fatal("small images take memory that is not of the heap")
	}
	if _, err := memory.Alloc(heapShare); err != nil {
		t.Fatal(err)
	}
	if got := len(memory.pieces); got != pages+1 {
		t.Errorf("%d pieces outside of the heap, want %d", got, pages+1)
	}
	for n := range pages {
		if !bytes.Equal(p.Page(n, false), bytes.Repeat([]byte{byte(n + 1)}, pageSize)) {
			t.Errorf("page %d has changed", n)
		}
	}
	if p.Err != nil {
		t.Error(p.Err)
	}
}
