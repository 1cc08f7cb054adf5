// Package unlock opens the key ring of one tier from settings. It holds the list of key
// providers (Kinds), so that neither the plugin nor the command line names a provider.
package unlock

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"layervault/keys"
)

// Config is the key settings of one tier.
type Config struct {
	Tier string // folder of the tier, absolute: /persist/vault
	// Provider is the kind of a new ring's first slot (see Kinds). Empty is valid if there
	// is a ring, and keys.ErrNoProvider if there is none. Of the software-only slots only
	// those of this provider may open.
	Provider string
	// Unmeasured: the tier opens before attestation, its slots need not depend on what booted.
	Unmeasured bool
	// Looking: the slots are only tried, the key is not used. Without a Provider
	// software-only slots then open too.
	Looking bool
	// NoAnchor accepts the ring without checking its anchor; see keys.Anchor. It is the
	// way back after the loss of the anchor without a recovery key.
	NoAnchor bool
	// WaitUntil limits the wait for the hardware's device; zero for no wait.
	WaitUntil time.Time
	// Floor is the floor of a new ring: keys.Format1 if the tier holds unauthenticated
	// records already; 0 for keys.Format2.
	Floor int
	// Set, New and Secret: see keys.Settings.
	Set, New keys.Values
	Secret   func(ctx context.Context, from, what string) ([]byte, error)
	// Recovery is the typed recovery secret, nil for none. The caller wipes it.
	Recovery []byte
	Log      *slog.Logger
}

// Settings are what the providers get of c.
func (c Config) Settings() keys.Settings {
	return keys.Settings{
		Tier: c.Tier, Unmeasured: c.Unmeasured, Set: c.Set, New: c.New,
		Secret: c.Secret, Typed: c.Recovery, Log: c.Log,
	}
}

// RingPath is the path of the tier's keyring.json.
func (c Config) RingPath() string { return filepath.Join(c.Tier, keys.FileName) }

// Providers makes every provider, those that need no person first. It touches no
// hardware. Errors: settings that make no sense to a provider.
func (c Config) Providers() ([]keys.Provider, error) {
	var out []keys.Provider
	for _, k := range Kinds() {
		p, err := k.Open(c.Settings())
		if err != nil {
			return nil, err
		}
		out = append(out, c.guard(k, p))
	}
	return out, nil
}

// Summary describes one slot of the ring without trying it.
func (c Config) Summary(ring *keys.Ring, id string) (keys.SlotState, error) {
	providers, err := c.Providers()
	if err != nil {
		return keys.SlotState{}, err
	}
	for _, s := range ring.Summary(providers...) {
		if s.ID == id {
			return s, nil
		}
	}
	_, err = ring.Slot(id)
	return keys.SlotState{}, err
}

// ForNewSlot makes the named provider for a first or another slot. Errors:
// keys.ErrNoProvider, keys.ErrUnknownProvider.
func (c Config) ForNewSlot(ctx context.Context, name string) (keys.Provider, error) {
	if name == "" {
		return nil, fmt.Errorf("%w: set %s (no default: nothing is encrypted with a key you did not choose)",
			keys.ErrNoProvider, Names("key=", "or"))
	}
	k, ok := KindNamed(name)
	if !ok {
		return nil, unknown(name)
	}
	return k.New(ctx, c.Settings())
}

func unknown(name string) error {
	return fmt.Errorf("%w %q; known providers: %s", keys.ErrUnknownProvider, name, Names("", "and"))
}

// Again makes the provider that reseals a slot as before, except for the changes in
// c.New.
// Errors: keys.ErrUnknownProvider, and those of the provider.
func (c Config) Again(ctx context.Context, slot keys.Slot) (keys.Provider, error) {
	k, ok := KindNamed(slot.Provider)
	switch {
	case !ok:
		return nil, unknown(slot.Provider)
	case k.Again == nil:
		return k.New(ctx, c.Settings())
	}
	return k.Again(ctx, c.Settings(), slot)
}

// Outside names the requirements of the slots that a copy of the ring does not contain.
func (c Config) Outside(slots []keys.Slot) []string {
	var out []string
	for _, k := range Kinds() {
		if k.Outside != nil && slices.ContainsFunc(slots, func(s keys.Slot) bool { return s.Provider == k.Name }) {
			out = append(out, k.Outside(c.Settings()))
		}
	}
	return out
}

// Unsteady lists reasons why a slot may fail to open early in the next boot.
func (c Config) Unsteady(slot keys.Slot) []keys.Finding { return c.unsteady(slot.Provider, slot.Blob) }

// UnsteadyNew is Unsteady of the new slot that c.New describes.
func (c Config) UnsteadyNew(name string) []keys.Finding { return c.unsteady(name, nil) }

func (c Config) unsteady(name string, blob json.RawMessage) []keys.Finding {
	k, _ := KindNamed(name)
	if k.Unsteady == nil {
		return nil
	}
	return k.Unsteady(c.Settings(), blob)
}

// Load reads the tier's ring.
func (c Config) Load(ctx context.Context) (*keys.Ring, error) {
	ring, err := keys.Load(ctx, c.RingPath(), c.Log)
	if err != nil {
		return nil, err
	}
	for _, k := range Kinds() {
		if c.concerns(k, ring) {
			c.await(ctx, k)
		}
	}
	c.Anchor(ring)
	return ring, nil
}

// Create makes the tier's ring with a first slot of p. Errors as keys.Create has them. The
// caller closes the key.
func (c Config) Create(ctx context.Context, p keys.Provider, label string) (*keys.Ring, *keys.TierKey, error) {
	return keys.Create(ctx, c.RingPath(), p, label, c.anchorOfNew(p), cmp.Or(c.Floor, keys.Format2), c.Log)
}

// Open unlocks the tier by any slot that opens. Errors: keys.ErrNoRing,
// keys.ErrDamagedRing, keys.ErrLocked (with every slot's reason).
func Open(ctx context.Context, c Config) (*keys.TierKey, *keys.Ring, keys.Slot, error) {
	ring, err := c.Load(ctx)
	if err != nil {
		return nil, nil, keys.Slot{}, err
	}
	providers, err := c.Providers()
	if err != nil {
		return nil, ring, keys.Slot{}, err
	}
	key, slot, err := ring.Unlock(ctx, providers...)
	return key, ring, slot, err
}

// OpenOrCreate unlocks the tier as Open does, or, if it has no ring and no images,
// creates a ring with the configured provider. The caller closes the key. A readable
// ring is returned with the error too, so that its slots can be shown.
func OpenOrCreate(ctx context.Context, c Config) (*keys.TierKey, *keys.Ring, error) {
	key, ring, slot, err := Open(ctx, c)
	if errors.Is(err, keys.ErrNoRing) {
		return c.create(ctx)
	}
	if err != nil {
		return nil, ring, err
	}
	if c.Log != nil {
		c.Log.Info("tier unlocked", "tier", c.Tier, "slot", slot.ID, "provider", slot.Provider)
		if c.Provider != "" && c.Provider != slot.Provider {
			c.Log.Warn("tier was unlocked by another provider than configured; see \"layervault key list\"",
				"tier", c.Tier, "configured", c.Provider, "used", slot.Provider)
		}
	}
	return key, ring, nil
}

func (c Config) create(ctx context.Context) (*keys.TierKey, *keys.Ring, error) {
	if err := keys.RefuseIfUsed(c.Tier); err != nil {
		return nil, nil, err
	}
	p, err := c.firstProvider(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("no key ring at %s and %w", c.RingPath(), err)
	}
	ring, key, err := c.Create(ctx, p, "")
	if errors.Is(err, keys.ErrRingExists) {
		// Another process was faster.
		key, ring, _, err = Open(ctx, c)
	}
	if err != nil {
		return nil, nil, err
	}
	if c.Log != nil {
		c.Log.Info("created a key ring; print a recovery key with \"layervault key enroll recovery\"", "ring", ring.Path(), "provider", p.Name())
	}
	return key, ring, nil
}

// firstProvider makes the configured provider for a ring created automatically: slots that
// need a person are refused.
func (c Config) firstProvider(ctx context.Context) (keys.Provider, error) {
	k, ok := KindNamed(c.Provider)
	if k.Person {
		return nil, unknown(c.Provider)
	}
	if ok {
		c.await(ctx, k)
	}
	p, err := c.ForNewSlot(ctx, c.Provider)
	if err != nil || c.Log == nil {
		return p, err
	}
	for _, f := range c.UnsteadyNew(c.Provider) {
		c.Log.Warn("the new vault may not open at the next boot", "why", f.Detail, "hint", f.Fix)
	}
	return p, nil
}
