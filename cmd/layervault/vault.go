package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"layervault/driver"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/persist"
)

// keyConfig says where the vault's key comes from.
func (a *app) keyConfig(s settings, log *slog.Logger) unlock.Config {
	cfg := unlock.Config{
		Tier:          a.layout().Tier(persist.Vault),
		Provider:      s.key,
		PCRs:          s.pcrs,
		Agent:         s.agent,
		Source:        s.source,
		TPM:           s.tpm,
		AllowZeroPCRs: s.allowZeroPCRs,
		Log:           log,
	}
	if s.pinFile != "" {
		cfg.PIN = func(context.Context) ([]byte, error) { return readSecretFile(a.in, s.pinFile) }
		cfg.NewPIN = cfg.PIN
	}
	return cfg
}

// vault is an open vault: its keys and what docker info tells of its slots.
type vault struct {
	*unlock.Source
	slots []string
}

var _ driver.SlotLister = vault{}

// SlotSummaries implements driver.SlotLister.
func (v vault) SlotSummaries() []string { return v.slots }

// openVault unlocks the vault, or makes it when there is none. A locked vault opens with
// a key that a person handed over (key unlock), for which person then waits.
func (a *app) openVault(ctx context.Context, s settings, person *handover.Receiver, log *slog.Logger) (driver.KeySource, error) {
	cfg := a.keyConfig(s, log)
	key, ring, err := unlock.OpenOrCreate(ctx, cfg)
	if errors.Is(err, keys.ErrLocked) {
		key, err = handedOver(ctx, ring, person, log, err)
	}
	if err != nil {
		return nil, err
	}
	if err := person.Cancel(); err != nil { // it opened by itself meanwhile
		return nil, errors.Join(err, key.Close())
	}
	providers, err := cfg.Providers()
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	if ring.Rotating() {
		if err := a.finishRotation(ctx, persist.Vault, ring, key, log); err != nil {
			return nil, errors.Join(err, key.Close())
		}
	}
	v := vault{Source: unlock.NewSource(cfg, key)}
	for _, slot := range ring.Summary(providers...) {
		v.slots = append(v.slots, slotLine(slot))
	}
	return v, nil
}

// handedOver gives the key that a person handed over or offers, or waits for one and
// returns why the ring is locked.
func handedOver(ctx context.Context, ring *keys.Ring, person *handover.Receiver, log *slog.Logger, locked error) (*keys.TierKey, error) {
	key := person.Take()
	if key == nil {
		person.Fetch(ctx)
		key = person.Take()
	}
	if key != nil {
		err := ring.Proves(key)
		if err == nil {
			log.Info("tier unlocked with a key that was handed over")
			return key, nil
		}
		locked = errors.Join(locked, err, key.Close())
	}
	if err := person.Listen(); err != nil {
		log.Warn("nobody can hand a key over", "error", err)
	}
	return nil, locked
}

// slotLine describes a slot in one line, without its state.
func slotLine(s keys.SlotState) string {
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
