package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"layervault/advice"
	"layervault/crypt"
	"layervault/driver"
	"layervault/keys"
	"layervault/keys/flags"
	"layervault/keys/handover"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/plugin"
	"layervault/vault"
)

// tpmPatience is how long after the start of the process the device of a TPM may appear:
// drivers that are modules have been seen to take ten seconds, and a machine that has no TPM
// is to say so soon.
const tpmPatience = 20 * time.Second

// newVault is the vault as the settings say. It opens nothing yet.
func (a *app) newVault(s settings, v volumeSettings, person *handover.Receiver, log *slog.Logger) *vault.Vault {
	cfg := vault.Config{
		Layout:      a.layout(),
		Keys:        func(tier persist.Tier) unlock.Config { return a.tierKeys(tier, s, log) },
		Person:      person,
		Patience:    tpmPatience,
		CryptParams: s.crypt(),
		Verity:      crypt.Verity(s.verity),
		Volumes:     vault.Volumes{Mounts: v.mounts, MountsGID: v.gid, DefaultSize: v.sizeBytes, Disks: v.disks, DiskRoot: v.diskRoot},
		Areas:       a.areas.Areas,
		Records:     a.records,
		Log:         log,
	}
	if s.recovery != "" {
		cfg.Recovery = func() ([]byte, error) { return a.typedKey(s.recovery) }
	}
	return vault.New(cfg)
}

// records are a tier's records that belong to neither a layer nor a volume.
func (a *app) records(tier persist.Tier) []vault.Record { return driver.Records(a.layout(), tier) }

// contents has the places of everything of a tier.
func (a *app) contents(tier persist.Tier) vault.Contents {
	return vault.Contents{Layout: a.layout(), Tier: tier, Records: a.records(tier)}
}

// keyConfig is the configuration of the vault's key.
func (a *app) keyConfig(s settings, log *slog.Logger) unlock.Config {
	cfg := unlock.Config{
		Tier:     a.layout().Tier(persist.Vault),
		Provider: s.key,
		NoAnchor: s.noAnchor,
		Log:      log,
	}
	cfg.Set, cfg.New = s.providers.Values()
	cfg.Secret = func(ctx context.Context, from, what string) ([]byte, error) {
		secret, err := a.readSecret(ctx, from, what)
		if errors.Is(err, fs.ErrNotExist) { // the file is to come
			return nil, fmt.Errorf("%w: no %s: %w", keys.ErrNeedsPerson, what, err)
		}
		return secret, err
	}
	return cfg
}

// tierKeys is keyConfig for any tier.
func (a *app) tierKeys(tier persist.Tier, s settings, log *slog.Logger) unlock.Config {
	cfg := a.keyConfig(s, log)
	if tier != persist.Vault {
		// What must open before attestation cannot depend on what was measured.
		cfg.Tier, cfg.New, cfg.Unmeasured = a.layout().Tier(tier), cfg.New.With("pcrs", "none"), true
	}
	return cfg
}

// typedKey reads the recovery key that a person named; nil without a name. The caller
// wipes it.
func (a *app) typedKey(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	return secretio.Read(a.in, file)
}

// readSecret reads a secret that a flag names: a file, - for standard input, or the
// terminal. It is what providers are given.
func (a *app) readSecret(ctx context.Context, from, what string) ([]byte, error) {
	if from == flags.Ask {
		return secretio.AskTwice(ctx, a.in, a.err, what)
	}
	return secretio.Read(a.in, from)
}

// ringLog prints the warnings of a verb, such as a repaired copy of a key ring, on standard error.
func (a *app) ringLog() *slog.Logger {
	return plugin.NewLog(io.Discard, a.err, slog.LevelWarn, advice.Step)
}
