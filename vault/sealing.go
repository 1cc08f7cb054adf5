package vault

import (
	"context"
	"errors"
	"time"

	"layervault/layer"
)

// Sealing seals layers anew while a process serves them, one at a time, behind all requests. What
// it is doing when the process stops is given up, and begins again at the next start.
type Sealing struct {
	vault *Vault
	// older: sealed layers of an older form, once, after the start.
	older bool
	// committed: writable images of layers that do not change any more, as they appear.
	committed bool
	layers    chan *layer.Store
	// Final seals a layer without a state, of which the graph driver knows whether it changes;
	// nil without that door. See layer.Store.SealFinal. It is set before Run.
	Final func(ctx context.Context, id string) (layer.Resealed, error)

	retry map[string]time.Time // layers that failed, until when they are left alone
}

// NewSealing makes the sealing of a vault's layers; with neither older nor committed it only erases
// what was replaced before.
func NewSealing(v *Vault, older, committed bool) *Sealing {
	return &Sealing{
		vault: v, older: older, committed: committed,
		layers: make(chan *layer.Store, 1), retry: map[string]time.Time{},
	}
}

// LayersOpen takes the store of layers; only the first call counts.
func (s *Sealing) LayersOpen(store *layer.Store) {
	select {
	case s.layers <- store:
	default:
	}
}

const (
	// sealEvery is the time between two looks at the records, which are in memory.
	sealEvery = time.Minute
	// sealAgain is how long a layer that failed is left alone: a disk may have been full.
	sealAgain = time.Hour
)

// Run waits for the store, and seals until ctx ends.
func (s *Sealing) Run(ctx context.Context) {
	var store *layer.Store
	select {
	case store = <-s.layers:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(sealEvery)
	defer tick.Stop()
	for {
		s.pass(ctx, store)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pass seals what there is to seal now.
func (s *Sealing) pass(ctx context.Context, store *layer.Store) {
	if s.older || s.committed {
		records, err := store.List(ctx)
		if err != nil && ctx.Err() == nil {
			s.vault.log.DebugContext(ctx, "skipped unreadable layer records", "error", err)
		}
		done := true
		for _, r := range records {
			if seal := s.sealer(ctx, store, r); seal != nil && time.Now().After(s.retry[r.ID]) {
				done = s.seal(ctx, r.ID, seal) && done
			}
			if ctx.Err() != nil {
				return
			}
		}
		s.older = s.older && !done
	}
	if !store.HasReplaced() {
		return
	}
	if _, err := store.EraseReplaced(ctx); err != nil && ctx.Err() == nil {
		s.vault.log.WarnContext(ctx, "cannot erase images that were sealed anew; it is tried again", "error", err)
	}
}

// sealer says how a layer is sealed; nil for one that is not.
func (s *Sealing) sealer(ctx context.Context, store *layer.Store, r layer.Record) func(context.Context, string) (layer.Resealed, error) {
	switch {
	case r.Kind == layer.Sealed && s.older:
		return store.Reseal
	case r.Kind != layer.Writable || !s.committed:
		return nil
	case r.State == layer.Committed:
		return store.Reseal
	case r.State == "" && !r.ReadWrite && s.Final != nil && errors.Is(store.CheckUnused(ctx, r.ID), layer.ErrInUse):
		return s.Final // something stands on it
	}
	return nil
}

// seal seals one layer, and says whether there is nothing more to do.
func (s *Sealing) seal(ctx context.Context, id string, how func(context.Context, string) (layer.Resealed, error)) bool {
	done, err := how(ctx, id)
	log := s.vault.log.With("layer", id)
	switch {
	case err == nil && done.Done:
		log.InfoContext(ctx, "sealed a layer anew", "bytes_before", done.Before, "bytes_after", done.After)
		fallthrough
	case err == nil, errors.Is(err, layer.ErrNotFound):
		delete(s.retry, id)
		return true
	case ctx.Err() != nil:
		log.InfoContext(ctx, "the sealing of a layer was given up; it begins again at the next start")
	case errors.Is(err, layer.ErrNotFinal):
		log.DebugContext(ctx, "a layer is not sealed yet", "error", err)
	default:
		s.retry[id] = time.Now().Add(sealAgain)
		log.WarnContext(ctx, "cannot seal a layer anew; it stays as it is, and is tried again in an hour", "error", err)
	}
	return false
}
