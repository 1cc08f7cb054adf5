package image

import (
	"bytes"
	"testing"
)

// One image at a time has the heap: the next maps its memory, until the first is done.
func TestHeapIsLentOnce(t *testing.T) {
	heap := new(Heap)
	first, second := newArena(heap), newArena(heap)
	mapped := func(a *arena) bool {
		t.Helper()
		if _, err := a.alloc(pageSize); err != nil {
			t.Fatal(err)
		}
		return len(a.pieces) > 0
	}
	if mapped(first) || !mapped(second) {
		t.Error("the heap is for the first image, and not for the second")
	}
	second.free()
	if third := newArena(heap); !mapped(third) {
		t.Error("the heap was lent twice")
	} else {
		third.free()
	}
	first.free()
	first.free() // as Abort after Close
	if again := newArena(heap); mapped(again) {
		t.Error("the heap was not given back")
	}
}

// An image that outgrows the heap moves its pages out of it, with what they hold.
func TestPagesLeaveTheHeap(t *testing.T) {
	memory := new(arena)
	p := &pager{memory: memory}
	memory.outgrown = p.leaveHeap
	defer memory.free()
	const pages = 20
	for n := range pages {
		copy(p.page(n, true), bytes.Repeat([]byte{byte(n + 1)}, pageSize))
	}
	if len(memory.pieces) != 0 {
		t.Fatal("small images take memory that is not of the heap")
	}
	if _, err := memory.alloc(heapShare); err != nil {
		t.Fatal(err)
	}
	if got := len(memory.pieces); got != pages+1 {
		t.Errorf("%d pieces outside of the heap, want %d", got, pages+1)
	}
	for n := range pages {
		if !bytes.Equal(p.page(n, false), bytes.Repeat([]byte{byte(n + 1)}, pageSize)) {
			t.Errorf("page %d has changed", n)
		}
	}
	if p.err != nil {
		t.Error(p.err)
	}
}
