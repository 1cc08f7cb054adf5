package unlock

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/keys/versatile"
)

// What opens a tier without a person must be what the settings ask for: who can write to
// the switched-off disk can put a ring of his own there, with slots that are easy to make.
//
//   - A slot of software alone (versatile, trusted on a source that is none or is weak,
//     and agent, whose service wraps any key that it is given) opens only where the
//     setting names its provider.
//   - A tpm slot must be sealed to the configured PCRs at least.
//
// A recovery key is typed by a person, so it opens whatever it fits; key reseal then makes
// the slot as strong as it should be.

// guarded refuses slots before the provider is asked.
type guarded struct {
	keys.Provider
	admit func(blob json.RawMessage) error
}

// Unwrap implements keys.Provider. Error: keys.ErrWeakSlot.
func (g guarded) Unwrap(ctx context.Context, b keys.Binding, blob json.RawMessage) ([]byte, error) {
	if err := g.admit(blob); err != nil {
		return nil, err
	}
	return g.Provider.Unwrap(ctx, b, blob)
}

// Patience is the provider's; see keys.Ring.Unlock.
func (g guarded) Patience() time.Duration {
	if p, ok := g.Provider.(interface{ Patience() time.Duration }); ok {
		return p.Patience()
	}
	return 0
}

// guard puts the settings before a provider.
func (c Config) guard(p keys.Provider) (keys.Provider, error) {
	switch p.Name() {
	case tpm.Name:
		least, err := c.leastPCRs()
		if err != nil {
			return nil, err
		}
		return guarded{p, func(blob json.RawMessage) error { return c.measured(blob, least) }}, nil
	case versatile.Name, agent.Name:
		return guarded{p, func(json.RawMessage) error {
			return c.named(p.Name(), "anybody who can write to the disk could have made it")
		}}, nil
	case trusted.Name:
		return guarded{p, func(blob json.RawMessage) error {
			if !p.Describe(blob).Software {
				return nil
			}
			return c.named(p.Name(), "no chip that protects anything is behind it")
		}}, nil
	}
	return p, nil
}

// named refuses a slot of software alone unless the setting names its provider.
func (c Config) named(provider, why string) error {
	if c.Provider == provider || c.Provider == "" && c.Looking {
		return nil
	}
	setting := "key is not set"
	if c.Provider != "" {
		setting = "the setting is key=" + c.Provider
	}
	return fmt.Errorf("%w: %s, and %s; if you chose such a slot yourself, say so with key=%s (--key %s)", keys.ErrWeakSlot, setting, why, provider, provider)
}

// leastPCRs is the selection that a tpm slot must have at least; without one it must only
// have some.
func (c Config) leastPCRs() (least tpm.Selection, err error) {
	if c.LeastPCRs == "" {
		return tpm.Selection{}, nil
	}
	return tpm.ParsePCRs(c.LeastPCRs)
}

// measured refuses a tpm slot that is sealed to less than least.
func (c Config) measured(blob json.RawMessage, least tpm.Selection) error {
	if c.Unmeasured || c.LeastPCRs != "" && least.None() {
		return nil
	}
	sealing, err := tpm.SealingOf(blob)
	if err != nil {
		return err
	}
	missing := least.Without(sealing.PCRs)
	switch {
	case sealing.PCRs.None():
		return fmt.Errorf("%w: it is sealed to no PCRs, so whatever boots this machine opens it; layervault key reseal --pcrs %s --recovery-key-file FILE, or set pcrs=none",
			keys.ErrWeakSlot, tpm.DefaultPCRs)
	case len(missing.PCRs) != 0:
		return fmt.Errorf("%w: it is sealed to PCRs %s, the setting is pcrs=%s: %s is missing; layervault key reseal --pcrs %s --recovery-key-file FILE, or set pcrs=%s",
			keys.ErrWeakSlot, sealing.PCRs, least, missing, least, sealing.PCRs)
	}
	return nil
}

// Anchor lets ring be anchored in the TPM where there is one and the ring has to do with
// it: by the setting, a slot, or its own word.
func (c Config) Anchor(ring *keys.Ring) {
	if c.NoAnchor {
		ring.UseNone()
	}
	if c.wantsAnchor(ring) {
		ring.Use(tpm.NewAnchor(c.TPM, c.Unmeasured))
	}
}

func (c Config) wantsAnchor(ring *keys.Ring) bool {
	return !c.NoAnchor && c.hasTPM() && c.needsTPM(ring)
}

func (c Config) needsTPM(ring *keys.Ring) bool {
	if c.Provider == tpm.Name || ring.Anchored() {
		return true
	}
	for _, s := range ring.Slots() {
		if s.Provider == tpm.Name {
			return true
		}
	}
	return false
}

// tpmPause is how often a wait for the TPM's device looks.
const tpmPause = 100 * time.Millisecond

// awaitTPM waits until WaitUntil for the device of a TPM whose driver is late. That it does
// not come is for those to say who want it.
func (c Config) awaitTPM(ctx context.Context) {
	if c.hasTPM() || !time.Now().Before(c.WaitUntil) {
		return
	}
	if c.Log != nil {
		c.Log.Info("waiting for the TPM, whose device is not there yet", "tpm", c.TPM, "until", c.WaitUntil.Format(time.TimeOnly))
	}
	ctx, cancel := context.WithDeadline(ctx, c.WaitUntil)
	defer cancel()
	tick := time.NewTicker(tpmPause)
	defer tick.Stop()
	for !c.hasTPM() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// hasTPM says whether there is something where the TPM should be.
func (c Config) hasTPM() bool {
	_, err := tpm.Locate(c.TPM)
	return err == nil
}

// anchorOfNew is the anchor of a ring whose first slot is p's; nil for none.
func (c Config) anchorOfNew(p keys.Provider) keys.Anchor {
	if p.Name() != tpm.Name || c.NoAnchor {
		return nil
	}
	return tpm.NewAnchor(c.TPM, c.Unmeasured)
}

// Unpin forgets what the TPM remembers of the tier's ring, to begin anew with another. A
// ring that is there is locked by that, until key recover.
func (c Config) Unpin(ctx context.Context) (removed int, err error) {
	anchor := tpm.NewAnchor(c.TPM, c.Unmeasured)
	places, err := anchor.Places(ctx)
	if err != nil {
		return 0, err
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
	return removed, nil
}
