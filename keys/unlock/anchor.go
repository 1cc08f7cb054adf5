package unlock

import (
	"context"
	"time"

	"layervault/keys"
)

// Anchor anchors ring in its hardware, if that is present.
func (c Config) Anchor(ring *keys.Ring) {
	if c.NoAnchor {
		ring.UseNone()
		return
	}
	for _, k := range anchors() {
		if c.concerns(k, ring) && c.present(k) {
			ring.Use(k.Hardware.Anchor(c.Settings()))
			return
		}
	}
}

// anchors are the kinds whose hardware can anchor a ring.
func anchors() []keys.Kind {
	var out []keys.Kind
	for _, k := range Kinds() {
		if k.Hardware != nil && k.Hardware.Anchor != nil {
			out = append(out, k)
		}
	}
	return out
}

// concerns reports whether ring uses the hardware of k: by the setting, by a slot, or by
// its recorded anchor.
func (c Config) concerns(k keys.Kind, ring *keys.Ring) bool {
	if k.Hardware == nil {
		return false
	}
	if c.Provider == k.Name {
		return true
	}
	if k.Hardware.Anchor != nil && ring.AnchorKind() == k.Hardware.Anchor(c.Settings()).Kind() {
		return true
	}
	for _, s := range ring.Slots() {
		if s.Provider == k.Name {
			return true
		}
	}
	return false
}

// present reports whether the hardware of k is present, as far as k can tell.
func (c Config) present(k keys.Kind) bool {
	return k.Hardware == nil || k.Hardware.Present == nil || k.Hardware.Present(c.Settings()) == nil
}

// CanAnchor reports whether the machine has hardware that can anchor a ring.
func (c Config) CanAnchor() bool {
	for _, k := range anchors() {
		if c.present(k) {
			return true
		}
	}
	return false
}

// pause is the interval at which a wait checks for a device.
const pause = 100 * time.Millisecond

// await waits until WaitUntil for a device whose driver loads late. A missing device is
// reported by the code that needs it.
func (c Config) await(ctx context.Context, k keys.Kind) {
	if c.present(k) || !time.Now().Before(c.WaitUntil) {
		return
	}
	if c.Log != nil {
		c.Log.Info("waiting for the "+k.Hardware.Title+": device does not exist yet",
			"why", k.Hardware.Present(c.Settings()), "until", c.WaitUntil.Format(time.TimeOnly))
	}
	ctx, cancel := context.WithDeadline(ctx, c.WaitUntil)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for !c.present(k) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// anchorOfNew is the anchor of a ring whose first slot is p's; nil for none.
func (c Config) anchorOfNew(p keys.Provider) keys.Anchor {
	k, _ := KindNamed(p.Name())
	if c.NoAnchor || k.Hardware == nil || k.Hardware.Anchor == nil {
		return nil
	}
	return k.Hardware.Anchor(c.Settings())
}

// Unpin deletes the hardware's record of the tier's ring, so that another ring can be
// created. An existing ring is locked then, until key recover.
func (c Config) Unpin(ctx context.Context) (removed int, err error) {
	for _, k := range anchors() {
		anchor := k.Hardware.Anchor(c.Settings())
		places, err := anchor.Places(ctx)
		if err != nil {
			return removed, err
		}
		for _, p := range places {
			if !p.Exists {
				continue
			}
			if err := anchor.Remove(ctx, p.Place); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}
