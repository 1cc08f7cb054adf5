package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"layervault/layer"
	"layervault/persist"
)

// LayersReport says what became of the older sealed layers of one tier; a part of UpgradeReport.
type LayersReport struct {
	Tier   string `json:"-"`
	Layers int    `json:"sealed_layers"`
	Sealed int    `json:"sealed_anew"` // by this run
	// Before and After are bytes on the disk of those images.
	Before int64 `json:"bytes_before"`
	After  int64 `json:"bytes_after"`
	// Waiting are images that were replaced and are still used: they are erased when they are not.
	Waiting int      `json:"waiting"`
	Failed  []string `json:"failed"` // why a layer was not sealed anew
}

// String is the report for a person, of one or more lines.
func (r LayersReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d sealed layers were sealed anew", r.Tier, r.Sealed, r.Layers)
	if r.Sealed > 0 {
		fmt.Fprintf(&b, ", %d MB before, %d MB now", r.Before/1e6, r.After/1e6)
	}
	b.WriteByte('\n')
	if r.Waiting > 0 {
		fmt.Fprintf(&b, "  %d replaced images are still used; they are erased after their last user\n", r.Waiting)
	}
	for _, why := range r.Failed {
		fmt.Fprintf(&b, "  left as it was: %s\n", why)
	}
	return b.String()
}

// ErrSealing: the plugin that has the tier can seal its layers anew by itself. The error is
// layer.ErrBusy too.
var ErrSealing = errors.New("a running plugin seals older layers anew by itself with upgrade=layers")

// ErrNotSealed: some layers were not sealed anew, and are as they were.
var ErrNotSealed = errors.New("not every older layer was sealed anew")

// SealLayers seals every older sealed layer of a tier anew that no other process uses the layers
// of. Containers may run. It may be interrupted and repeated: what is done is not done again.
// scratch is a folder to mount images in. A process that is killed leaves what is mounted there to
// its mount namespace: with one of its own, nothing is left. A layer that fails does not keep the
// others; the report names it, and the error is ErrNotSealed. Error for a tier that a plugin has:
// ErrSealing.
func (v *Vault) SealLayers(ctx context.Context, tier persist.Tier, scratch string, progress func(done, total int, name string)) (r LayersReport, err error) {
	r = LayersReport{Tier: string(tier), Failed: []string{}}
	if !exists(v.cfg.Layout.Layers(tier)) {
		return r, nil
	}
	opened, err := v.Unlock(ctx, tier)
	if err != nil {
		return r, fmt.Errorf("unlock %s: %w", tier, err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	store, err := OpenLayers(ctx, v.cfg.Layout, tier, layer.Config{
		Scratch: scratch, Keys: opened.Source, Devices: v.devices(opened.Source), Log: v.log,
	})
	if errors.Is(err, layer.ErrBusy) {
		err = fmt.Errorf("%w; %w", err, ErrSealing)
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, store.Close(context.WithoutCancel(ctx))) }()
	first, err := sealOlder(ctx, store, &r, progress)
	if err != nil {
		return r, err
	}
	if r.Waiting, err = store.EraseReplaced(ctx); err != nil {
		return r, err
	}
	if len(r.Failed) > 0 {
		return r, fmt.Errorf("%w: %s: %d layers; %w", ErrNotSealed, tier, len(r.Failed), first)
	}
	return r, nil
}

// sealOlder seals the older sealed layers of a store anew, one after the other. failed is the first
// reason why one stays as it was.
func sealOlder(ctx context.Context, store *layer.Store, r *LayersReport, progress func(done, total int, name string)) (failed, err error) {
	records, err := store.List(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		failed = err
		r.Failed = append(r.Failed, err.Error()) // unreadable ones, beside the rest
	}
	var sealed []layer.Record
	for _, rec := range records {
		if rec.Kind == layer.Sealed {
			sealed = append(sealed, rec)
		}
	}
	r.Layers = len(sealed)
	for i, rec := range sealed {
		done, err := store.Reseal(ctx, rec.ID)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("layers of %s wait to be sealed anew: %w", r.Tier, context.Cause(ctx))
		case errors.Is(err, layer.ErrNotFound): // removed meanwhile
		case err != nil:
			if failed == nil {
				failed = err
			}
			r.Failed = append(r.Failed, err.Error())
		case done.Done:
			r.Sealed, r.Before, r.After = r.Sealed+1, r.Before+done.Before, r.After+done.After
		}
		if progress != nil {
			progress(i+1, len(sealed), rec.ID)
		}
	}
	return failed, nil
}
