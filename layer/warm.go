package layer

import (
	"container/list"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// maxWarm bounds the sealed images kept open. Each costs a loop and a
	// dm-crypt device in the kernel (some 100 KiB with its work queues) and one file
	// descriptor; 64 holds the whole chains of three or four usual images, which is
	// what a host that starts containers again and again goes round in.
	maxWarm = 64
	// warmIdle is how long they are kept after the last was opened. Longer than the
	// pause between two steps of a build, short enough that an idle host shows no
	// open devices.
	warmIdle = 2 * time.Minute
)

// warm keeps recently used sealed images open, least recently used out first.
type warm struct {
	mu    sync.Mutex
	order list.List // of *warmImage, most recent first
	byID  map[string]*list.Element
	timer *time.Timer
	off   bool // closed: keep nothing any more
}

type warmImage struct {
	id   string
	hold io.Closer
}

// touch says that an image was used; false if it is not kept.
func (w *warm) touch(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.byID[id]
	if ok {
		w.order.MoveToFront(e)
		w.timer.Reset(warmIdle)
	}
	return ok
}

// keep takes over hold. It returns the error of closing what it pushes out.
func (w *warm) keep(id string, hold io.Closer) error {
	w.mu.Lock()
	if _, have := w.byID[id]; have || w.off {
		w.mu.Unlock()
		return hold.Close()
	}
	if w.byID == nil {
		w.byID = make(map[string]*list.Element)
	}
	w.byID[id] = w.order.PushFront(&warmImage{id, hold})
	var out []io.Closer
	for w.order.Len() > maxWarm {
		out = append(out, w.take(w.order.Back()))
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(warmIdle, func() { _ = w.dropIdle() }) // closing a read-only fd: nobody to tell
	} else {
		w.timer.Reset(warmIdle)
	}
	w.mu.Unlock()
	return closeAll(out)
}

// take removes an element; the caller closes what it held, without the lock.
func (w *warm) take(e *list.Element) io.Closer {
	im := w.order.Remove(e).(*warmImage)
	delete(w.byID, im.id)
	return im.hold
}

// drop lets go of one image.
func (w *warm) drop(id string) error {
	w.mu.Lock()
	var out []io.Closer
	if e, ok := w.byID[id]; ok {
		out = append(out, w.take(e))
	}
	w.mu.Unlock()
	return closeAll(out)
}

// dropIdle lets go of all images.
func (w *warm) dropIdle() error {
	w.mu.Lock()
	var out []io.Closer
	for w.order.Len() > 0 {
		out = append(out, w.take(w.order.Back()))
	}
	w.mu.Unlock()
	return closeAll(out)
}

// dropAll lets go of all images and keeps none from now on.
func (w *warm) dropAll() error {
	w.mu.Lock()
	w.off = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	return w.dropIdle()
}

func closeAll(cs []io.Closer) error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Cool closes the images that are only kept open in case they are used again.
func (s *Store) Cool() error { return s.warm.dropIdle() }
