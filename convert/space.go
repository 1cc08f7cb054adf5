package convert

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNoSpace: a disk has no room for what is to be copied. It is unix.ENOSPC, too.
var ErrNoSpace error = noSpace{}

type noSpace struct{}

func (noSpace) Error() string { return "not enough space for the upgrade" }

// Is makes the error match ENOSPC.
func (noSpace) Is(target error) bool { return target == unix.ENOSPC }

// SpaceError is ErrNoSpace with numbers.
type SpaceError struct {
	Pool               string // number of the disk
	Needed, Free, Keep int64
	Commit             bool
}

func (e *SpaceError) Error() string {
	hint := "; with --commit each source is freed once it is copied"
	if e.Commit {
		hint = ""
	}
	return fmt.Sprintf("%v: disk %s has %d bytes free, %d are needed and %d stay free%s", ErrNoSpace, e.Pool, e.Free, e.Needed, e.Keep, hint)
}

func (e *SpaceError) Unwrap() error { return ErrNoSpace }

// needs is what all items need together.
type needs struct{ files, bytes int64 }

// pool is a disk in the calculation.
type pool struct {
	free   int64 // at the start
	now    int64 // used by what was copied so far, less what was freed
	needed int64 // most that was used at once
}

// space checks that the disks have room for all items, one after the other. With Commit each
// item gives its source's space back before the next begins.
func (r *run) space(items []*Item) (needs, error) {
	var all needs
	pools := map[string]*pool{}
	sources, _, err := Disk(r.Layout.Root)
	if err != nil {
		return all, err
	}
	for _, it := range items {
		rec := r.state.j.Items[it.Source]
		if it.Left != nil || rec != nil && rec.Phase != copying {
			continue
		}
		all.files += it.tree.files
		all.bytes += it.tree.bytes
		rooms, err := r.Places.Room(r.ctx, it.Target)
		if err != nil {
			it.Left = err
			r.stays(it)
			continue
		}
		takes := it.tree.need() - r.staged(it)
		for _, room := range rooms {
			if pools[room.Pool] == nil {
				pools[room.Pool] = &pool{free: room.Free}
			}
			p := pools[room.Pool]
			p.now += takes + room.Extra
			p.needed = max(p.needed, p.now)
		}
		if from := pools[sources]; r.Commit && from != nil && it.tree.outside == 0 {
			from.now -= it.tree.bytes
		}
	}
	var worst *SpaceError
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		p := pools[name]
		e := &SpaceError{Pool: name, Needed: p.needed, Free: p.free, Keep: max(r.Keep, 0), Commit: r.Commit}
		if worst == nil || e.Free-e.Needed < worst.Free-worst.Needed {
			worst = e
		}
		if e.Needed+e.Keep > e.Free {
			errs = append(errs, e)
		}
	}
	if worst != nil {
		r.report.Needed, r.report.Free = worst.Needed, worst.Free
	}
	return all, errors.Join(errs...)
}

// staged is what an earlier run staged of an item: space that is taken already.
func (r *run) staged(it *Item) int64 {
	if r.DryRun || r.state.j.Items[it.Source] == nil {
		return 0
	}
	to, release, err := r.open(it.Target, it.tree.room())
	if err != nil {
		return 0
	}
	defer func() { _ = release() }()
	t, err := survey(r.ctx, to, stageName(it.Source))
	if err != nil {
		return 0
	}
	return min(t.bytes, it.tree.bytes)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
