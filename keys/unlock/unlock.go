// Package unlock opens the key ring of one tier from settings: it knows every
// provider, so that neither the plugin nor the command line has to.
package unlock

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/keys/versatile"
)

// Config is what settings say about one tier's keys.
type Config struct {
	Tier string // folder of the tier, absolute: /persist/vault
	// Provider is what a new ring's first slot is made with: "tpm", "trusted", "versatile", "agent".
	// Empty is fine while there is a ring, and keys.ErrNoProvider when there is none.
	// It also says which slots of software alone may open: those of this provider.
	Provider string
	// PCRs of a new tpm slot (tpm.ParsePCRs); "" = tpm.DefaultPCRs.
	PCRs string
	// LeastPCRs is what a tpm slot must be sealed to at least to open without a person; ""
	// for any that is not "none".
	LeastPCRs string
	// Unmeasured: the tier opens before attestation, its slots need no PCRs.
	Unmeasured bool
	// Looking: the slots are only tried, nothing is done with the key. Without a Provider
	// slots of software alone then open too.
	Looking bool
	// NoAnchor takes the ring without asking the TPM's memory of it; see keys.Anchor. It is
	// the way back where that is lost and there is no recovery key.
	NoAnchor bool
	// WaitUntil is how long the device of a TPM may take to appear; zero for not waiting.
	WaitUntil time.Time
	TPM       string // device or socket; "" = tpm.DefaultPath
	KeyFile   string // of versatile; "" = versatile.key beside the tier's folder
	// Source is what a new trusted slot rests on (trusted.ParseSource); "" for nothing.
	Source string
	// Agent is where the key service of agent slots is (agent.Parse); "" for nowhere.
	Agent string
	// Floor is that of a new ring: keys.Format1 where records lie there already for which no
	// vault could vouch; 0 for keys.Format2.
	Floor int
	// SignedBy may approve other PCR values for a new tpm slot; nil for nobody.
	SignedBy crypto.PublicKey
	// AllowZeroPCRs accepts a TPM bank into which nothing was measured.
	AllowZeroPCRs bool
	// Recovery is what a person typed, nil for nothing. The caller wipes it.
	Recovery []byte
	// PIN, NewPIN and KeepPIN: see tpm.Config.
	PIN, NewPIN func(ctx context.Context) ([]byte, error)
	KeepPIN     bool
	Log         *slog.Logger
}

// RingPath is the path of the tier's keyring.json.
func (c Config) RingPath() string { return filepath.Join(c.Tier, keys.FileName) }

// PoliciesName is the file of signed policies in the folder of a tier, beside the ring.
const PoliciesName = "signed-policies.json"

// PoliciesPath is the path of the tier's file of signed policies.
func (c Config) PoliciesPath() string { return filepath.Join(c.Tier, PoliciesName) }

// KeyFilePath is the path of the software key file.
func (c Config) KeyFilePath() string {
	if c.KeyFile != "" {
		return c.KeyFile
	}
	return filepath.Join(filepath.Dir(c.Tier), versatile.FileName)
}

// Providers makes every provider, those that need no person first. It touches no
// hardware. Errors: PCRs that make no sense, a key file inside the tier.
func (c Config) Providers() ([]keys.Provider, error) {
	chip, err := c.tpm()
	if err != nil {
		return nil, err
	}
	file, err := c.versatile()
	if err != nil {
		return nil, err
	}
	service, err := c.agent()
	if err != nil {
		return nil, err
	}
	kernel, err := c.trusted()
	if err != nil {
		return nil, err
	}
	// The service after what is at hand: it may be slow.
	out := []keys.Provider{chip, kernel, file, service, recovery.Typed(c.Recovery)}
	for i, p := range out {
		if out[i], err = c.guard(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ForNewSlot makes the named provider for a first or another slot. Recovery slots are
// made with recovery.New. Errors: keys.ErrNoProvider, keys.ErrUnknownProvider.
func (c Config) ForNewSlot(name string) (keys.Provider, error) {
	switch name {
	case tpm.Name:
		return c.tpm()
	case trusted.Name:
		return c.trusted()
	case versatile.Name:
		return c.versatile()
	case agent.Name:
		return c.agent()
	case "":
		return nil, fmt.Errorf("%w: set key=tpm or key=versatile (or key=trusted, key=agent; there is no default, so that nothing is encrypted with a key you did not choose)",
			keys.ErrNoProvider)
	default:
		return nil, fmt.Errorf("%w %q; known are tpm, trusted, versatile and agent", keys.ErrUnknownProvider, name)
	}
}

func (c Config) tpm() (keys.Provider, error) {
	pcrs := c.PCRs
	if pcrs == "" {
		pcrs = tpm.DefaultPCRs
	}
	sel, err := tpm.ParsePCRs(pcrs)
	if err != nil {
		return nil, err
	}
	return tpm.New(tpm.Config{
		Path: c.TPM, PCRs: sel, AllowZeroPCRs: c.AllowZeroPCRs, PIN: c.PIN, NewPIN: c.NewPIN, KeepPIN: c.KeepPIN,
		SignedBy: c.SignedBy, Policies: c.PoliciesPath(),
	}), nil
}

func (c Config) trusted() (keys.Provider, error) {
	src, err := trusted.ParseSource(c.Source)
	if err != nil {
		return nil, err
	}
	return trusted.New(trusted.Config{Source: src, Log: c.Log}), nil
}

func (c Config) agent() (keys.Provider, error) {
	addr, err := agent.Parse(c.Agent)
	if err != nil {
		return nil, err
	}
	return agent.New(addr), nil
}

func (c Config) versatile() (keys.Provider, error) {
	path := c.KeyFilePath()
	rel, err := filepath.Rel(c.Tier, path)
	if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return nil, fmt.Errorf("%w: %s lies inside the tier %s that it opens; choose another place", versatile.ErrBadKeyFile, path, c.Tier)
	}
	return versatile.New(path), nil
}

// Load reads the tier's ring.
func (c Config) Load(ctx context.Context) (*keys.Ring, error) {
	ring, err := keys.Load(ctx, c.RingPath(), c.Log)
	if err != nil {
		return nil, err
	}
	if c.needsTPM(ring) {
		c.awaitTPM(ctx)
	}
	c.Anchor(ring)
	return ring, nil
}

// Create makes the tier's ring with a first slot of p. Errors as keys.Create has them. The
// caller closes the key.
func (c Config) Create(ctx context.Context, p keys.Provider, label string) (*keys.Ring, *keys.TierKey, error) {
	return keys.CreateAnchored(ctx, c.RingPath(), p, label, c.anchorOfNew(p), cmp.Or(c.Floor, keys.Format2), c.Log)
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

// OpenOrCreate unlocks the tier as Open does, or, when it has no ring and holds no
// images, makes a ring with the configured provider. The caller closes the key. The
// ring is returned with the error too when it could be read, for its slots' sake.
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
			c.Log.Warn("tier was not unlocked by the configured provider; see \"layervault key list\"",
				"tier", c.Tier, "configured", c.Provider, "used", slot.Provider)
		}
	}
	return key, ring, nil
}

// warnOfUnsteady tells of PCRs that would keep a new slot from opening at the next boot.
func (c Config) warnOfUnsteady() {
	pcrs := c.PCRs
	if pcrs == "" {
		pcrs = tpm.DefaultPCRs
	}
	sel, err := tpm.ParsePCRs(pcrs)
	if err != nil || c.Log == nil {
		return // ForNewSlot says what is wrong with them
	}
	for _, why := range tpm.Unsteady(sel) {
		c.Log.Warn("the new vault may not open at the next boot: leave that PCR out with pcrs=, or sign policies", "pcrs", sel.String(), "why", why)
	}
}

func (c Config) create(ctx context.Context) (*keys.TierKey, *keys.Ring, error) {
	if err := keys.RefuseIfUsed(c.Tier); err != nil {
		return nil, nil, err
	}
	if c.Provider == tpm.Name {
		c.awaitTPM(ctx)
		c.warnOfUnsteady()
	}
	p, err := c.ForNewSlot(c.Provider)
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
		c.Log.Info("made a key ring; print a recovery key with \"layervault key enroll recovery\"", "ring", ring.Path(), "provider", p.Name())
	}
	return key, ring, nil
}
