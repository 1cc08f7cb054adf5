package layer

import (
	"context"
	"slices"
	"sync"
	"time"

	"layervault/crypt"
)

// A hash tree makes a changed block of a sealed layer an I/O error where it is read: in a
// container, whose program says what it wants of it. The kernel remembers that it saw one, as long
// as the image is open. So an open store asks the kernel now and then, and the log has a line for
// each such image.

// lookEvery is how often the kernel is asked: a few system calls, one for each open image.
const lookEvery = 10 * time.Second

// changed is what was seen of changed images.
type changed struct {
	mu     sync.Mutex
	seen   map[string]string // LUKS2 UUID to the ID of the layer, "" for none of this store's
	failed bool              // the kernel could not be asked, which was said

	stop context.CancelFunc // nil for a store that does not ask
	done chan struct{}
}

// watch asks until the store is closed.
func (s *Store) watch(ctx context.Context) {
	if s.cfg.Corrupted == nil {
		return
	}
	ctx, s.changed.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.changed.done = make(chan struct{})
	go func() {
		defer close(s.changed.done)
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		for {
			s.look(ctx)
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
}

// unwatch ends watch and waits for its end.
func (s *Store) unwatch() {
	if s.changed.stop != nil {
		s.changed.stop()
		<-s.changed.done
	}
}

// Changed lists the layers in whose images the kernel has read a changed block since this store was
// opened, sorted. It asks the kernel, and waits for no disk.
func (s *Store) Changed(ctx context.Context) []string {
	if s.cfg.Corrupted != nil {
		s.look(ctx)
	}
	s.changed.mu.Lock()
	defer s.changed.mu.Unlock()
	var ids []string
	for uuid, id := range s.changed.seen {
		// One that was removed, and perhaps made again, is changed no more.
		if r, err := s.record(id); id != "" && err == nil && r.UUID == uuid {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// look asks the kernel, and logs each changed image once.
func (s *Store) look(ctx context.Context) {
	uuids, err := s.cfg.Corrupted()
	s.changed.mu.Lock()
	defer s.changed.mu.Unlock()
	if err != nil && !s.changed.failed {
		s.changed.failed = true
		s.log.WarnContext(ctx, "cannot ask the kernel for changed blocks of open images", "error", err)
	}
	for _, uuid := range uuids {
		if _, known := s.changed.seen[uuid]; known {
			continue
		}
		id := s.layerOf(ctx, uuid)
		if ctx.Err() != nil {
			return // the next one looks again
		}
		if s.changed.seen == nil {
			s.changed.seen = make(map[string]string)
		}
		s.changed.seen[uuid] = id
		// id is empty where a container uses a layer that was removed.
		s.log.ErrorContext(ctx, "a sealed layer was changed on the disk; what reads there gets an I/O error", "layer", id, "uuid", uuid, "error", crypt.ErrCorrupt)
	}
}

// layerOf finds the layer whose image has a LUKS2 UUID, "" for none.
func (s *Store) layerOf(ctx context.Context, uuid string) string {
	records, _ := s.List(ctx) // those that can be read
	for _, r := range records {
		if r.UUID == uuid {
			return r.ID
		}
	}
	return ""
}
