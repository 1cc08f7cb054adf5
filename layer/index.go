package layer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// index maps layers to their parents. Only removals need the map, so the records are
// read at the first removal, not at start.
type index struct {
	mu       sync.Mutex
	children map[string]map[string]struct{} // by parent
	removing map[string]struct{}
	loaded   bool
	load     sync.Mutex // held while loading; removals wait, creations do not
}

// add registers a child before it becomes visible, so that its parent cannot
// vanish in between. False if the parent is just being removed.
func (x *index) add(parent, child string) bool {
	if parent == "" {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, going := x.removing[parent]; going {
		return false
	}
	if x.children == nil {
		x.children = make(map[string]map[string]struct{})
	}
	if x.children[parent] == nil {
		x.children[parent] = make(map[string]struct{})
	}
	x.children[parent][child] = struct{}{}
	return true
}

func (x *index) drop(parent, child string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.children[parent], child)
	if len(x.children[parent]) == 0 {
		delete(x.children, parent)
	}
}

// beginRemove bars new children, or fails because there are some.
func (x *index) beginRemove(id string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.inUse(id); err != nil {
		return err
	}
	if x.removing == nil {
		x.removing = make(map[string]struct{})
	}
	x.removing[id] = struct{}{}
	return nil
}

// inUse needs x.mu.
func (x *index) inUse(id string) error {
	for child := range x.children[id] {
		return fmt.Errorf("%w: %s is the parent of %s", ErrInUse, id, child)
	}
	return nil
}

func (x *index) endRemove(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.removing, id)
}

// loadIndex reads all parents once. An unreadable record has no known parent, and must
// not prevent the removal of other layers.
func (s *Store) loadIndex(ctx context.Context) error {
	s.index.load.Lock()
	defer s.index.load.Unlock()
	if s.index.loaded {
		return nil
	}
	records, err := s.List(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if err != nil {
		s.log.WarnContext(ctx, "skipped unreadable layer records", "error", err)
	}
	for _, r := range records {
		s.index.add(r.Parent, r.ID)
	}
	s.index.loaded = true
	return nil
}

// Children lists the direct children of a layer, sorted.
func (s *Store) Children(ctx context.Context, id string) ([]string, error) {
	if err := s.loadIndex(ctx); err != nil {
		return nil, err
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return slices.Sorted(maps.Keys(s.index.children[id])), nil
}

// CheckUnused is ErrInUse for a layer that is the parent of another.
func (s *Store) CheckUnused(ctx context.Context, id string) error {
	if err := s.loadIndex(ctx); err != nil {
		return err
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return s.index.inUse(id)
}
