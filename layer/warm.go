package layer

import (
	"container/list"
	"errors"
	"io"
	"sync"
	"time"
)

const (
	// maxWarm bounds the images kept open. Each costs a loop and a dm-crypt device
	// and an ext4 in the kernel (some 200 KiB) and one file descriptor. It must not be
	// less than the longest chain, or going through that again and again finds nothing
	// warm: docker allows 125 layers, so 256 holds two such images.
	maxWarm = 256
	// warmIdle is the time that an unused image stays open: longer than the pause between
	// two steps of a build, short enough that an idle host shows no open devices.
	warmIdle = 2 * time.Minute
)

// warm keeps recently used images open and closes the least recently used first: sealed
// images, and writable ones that are parents or newly made. See Release.
type warm struct {
	mu    sync.Mutex
	order list.List // of *warmImage, most recent first
	byID  map[string]*list.Element
	timer *time.Timer
	off   bool // closed: keep nothing any more
}

type warmImage struct {
	id   string
	hold Held
}

// borrow hands out the hold of an image, to be returned with keep; nil if there is none.
// No other goroutine closes a borrowed hold, so its device number cannot be reused.
func (w *warm) borrow(id string) Held {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.byID[id]
	if !ok {
		return nil
	}
	return w.take(e)
}

// keep takes over hold. It returns the error of closing the image that hold displaces.
func (w *warm) keep(id string, hold Held) error {
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
		w.timer = time.AfterFunc(warmIdle, func() { _ = w.dropIdle() }) // closing an unwritten descriptor: no error to report
	} else {
		w.timer.Reset(warmIdle)
	}
	w.mu.Unlock()
	return closeAll(out)
}

// take removes an element; the caller closes what it held, without the lock.
func (w *warm) take(e *list.Element) Held {
	im := w.order.Remove(e).(*warmImage)
	delete(w.byID, im.id)
	return im.hold
}

// drop closes one image.
func (w *warm) drop(id string) error {
	w.mu.Lock()
	var out []io.Closer
	if e, ok := w.byID[id]; ok {
		out = append(out, w.take(e))
	}
	w.mu.Unlock()
	return closeAll(out)
}

// dropIdle closes all images.
func (w *warm) dropIdle() error {
	w.mu.Lock()
	var out []io.Closer
	for w.order.Len() > 0 {
		out = append(out, w.take(w.order.Back()))
	}
	w.mu.Unlock()
	return closeAll(out)
}

// dropAll closes all images and keeps none from now on.
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

// Release closes a layer's writable image if it is only kept warm: after a container
// stops, its image is expected to be closed.
func (s *Store) Release(id string) error {
	if r, err := s.record(id); err != nil || r.Kind != Writable {
		return nil // nothing of it is open, or nothing that can change
	}
	return s.warm.drop(id)
}

// Cool closes all images that are only kept warm.
func (s *Store) Cool() error { return s.warm.dropIdle() }
