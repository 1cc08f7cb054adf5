package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"layervault/crypt"
	"layervault/internal/keylock"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
)

// SealedTiers are the tiers that have a key.
var SealedTiers = []persist.Tier{persist.Vault, persist.Unsealed}

// Config says where a vault is and how its tiers open.
type Config struct {
	Layout persist.Layout
	// Keys says how a tier opens, or how its key ring is made.
	Keys func(persist.Tier) unlock.Config
	// Recovery reads the recovery key that a person named, nil for none; nil where a person
	// names none. It is called for each tier, and its result is wiped.
	Recovery func() ([]byte, error)
	// Person waits for the vault's key from a person (key unlock) while no slot opens; nil
	// where no person can hand it over.
	Person *handover.Receiver
	// Patience is how long after the start of the process the device of a TPM may appear.
	Patience time.Duration
	// CryptParams is how new images are encrypted.
	CryptParams crypt.Params
	// Devices makes the images of layers; nil for encrypted ones of package crypt.
	Devices func(crypt.KeySource) layer.Devices
	// Verity is for sealed layers without a hash tree.
	Verity crypt.Verity
	// Volumes is how volumes are kept.
	Volumes Volumes
	// Areas is how areas are kept.
	Areas Areas
	// Records lists the records of a tier that belong to neither a layer nor a volume; nil
	// for none.
	Records func(persist.Tier) []Record
	Log     *slog.Logger // nil for slog.Default()
}

// Vault opens the tiers for one process, each once, when it is first needed. All doors of a
// plugin share it: a TPM is slow, and a person hands a key over once. One tier that is slow to
// open does not keep another.
type Vault struct {
	cfg Config
	log *slog.Logger

	locks keylock.Locks
	open  map[persist.Tier]*Tier // guarded by each tier's lock

	layers sharedLayers
}

// New makes a vault whose tiers are all closed.
func New(cfg Config) *Vault {
	v := &Vault{cfg: cfg, log: cfg.Log, open: map[persist.Tier]*Tier{}}
	if v.log == nil {
		v.log = slog.Default()
	}
	for _, t := range SealedTiers {
		v.open[t] = &Tier{}
	}
	return v
}

// Contents says where everything of a tier is.
func (v *Vault) Contents(tier persist.Tier) Contents {
	c := Contents{Layout: v.cfg.Layout, Tier: tier}
	if v.cfg.Records != nil {
		c.Records = v.cfg.Records(tier)
	}
	return c
}

// Tier is an open tier.
type Tier struct {
	*unlock.Source
	slots  []keys.SlotState
	unlock func() error // of the lock that keeps a rotation off; nil without one
}

// SlotSummaries has one line for each key slot, without secrets, for docker info.
func (t *Tier) SlotSummaries() []string {
	var lines []string
	for _, s := range t.slots {
		lines = append(lines, SlotLine(s))
	}
	return lines
}

// Close wipes the key. Nobody may use it any more.
func (t *Tier) Close() error {
	if t.Source == nil {
		return nil
	}
	err := t.Source.Close()
	if t.unlock != nil {
		err = errors.Join(err, t.unlock())
	}
	return err
}

// SlotLine describes a key slot in one line, without its state.
func SlotLine(s keys.SlotState) string {
	line := s.ID + " " + s.Provider
	if s.PCRs != "" {
		line += " PCRs " + s.PCRs
	}
	if s.Software {
		line += " (software only)"
	}
	if s.Label != "" {
		line += fmt.Sprintf(" %q", s.Label)
	}
	return line
}

// Tier opens a tier, or makes its key ring when there is none. It stays open, and no rotation
// of its key begins, until the vault is closed.
func (v *Vault) Tier(ctx context.Context, name persist.Tier) (*Tier, error) {
	at, ok := v.open[name]
	if !ok {
		return nil, fmt.Errorf("tier %s has no key", name)
	}
	unlock, err := v.locks.Lock(ctx, string(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if at.Source != nil {
		return at, nil
	}
	opened, err := v.Unlock(ctx, name)
	if err != nil {
		return nil, err
	}
	// After the opening, which finishes a rotation that was cut short. Should one begin in
	// between, the source follows it.
	if opened.unlock, err = v.Contents(name).shareWaiting(ctx); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	*at = *opened
	return at, nil
}

// KeysOf opens a tier for the stores of volumes and disks.
func (v *Vault) KeysOf(ctx context.Context, name persist.Tier) (crypt.KeySource, error) {
	at, err := v.Tier(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("unlock %s: %w", name, err)
	}
	return at.Source, nil
}

// Borrowed is an open tier that has nothing to close: other doors may still want the key.
type Borrowed struct {
	crypt.KeySource
	slots []string
}

// SlotSummaries is that of Tier.
func (b Borrowed) SlotSummaries() []string { return b.slots }

// Borrow opens the vault tier for the layers.
func (v *Vault) Borrow(ctx context.Context) (crypt.KeySource, error) {
	at, err := v.Tier(ctx, persist.Vault)
	if err != nil {
		return nil, err
	}
	return Borrowed{at.Source, at.SlotSummaries()}, nil
}

// Close wipes the keys of all tiers. Nobody may use them any more.
func (v *Vault) Close() error {
	var errs []error
	for _, at := range v.open {
		errs = append(errs, at.Close())
		*at = Tier{}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
