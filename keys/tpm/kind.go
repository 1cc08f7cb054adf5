package tpm

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"layervault/keys"
)

// PoliciesName is the file of signed policies in the folder of a tier, beside the ring.
const PoliciesName = "signed-policies.json"

// PoliciesPath is the path of the file of signed policies of a tier.
func PoliciesPath(tier string) string { return filepath.Join(tier, PoliciesName) }

// The provider's flags.
const (
	flagTPM      = "tpm"
	flagPCRs     = "pcrs"
	flagZeroPCRs = "allow-zero-pcrs"
	flagPINFile  = "pin-file"
	flagPIN      = "pin"
	flagSignedBy = "signed-by"
)

// Kind is this provider for the list of all.
func Kind() keys.Kind {
	return keys.Kind{
		Name:  Name,
		About: "sealed by the TPM under PCRs (--pcrs), with --pin also under a PIN",
		Flags: []keys.Flag{
			{
				Name: flagTPM, Value: DefaultPath, For: keys.ForSettings | keys.ForKeys, Env: true,
				Usage: "TPM device, or the unix socket of an emulator",
			},
			{
				Name: flagPCRs, Value: DefaultPCRs, For: keys.ForSettings | keys.ForAll, Env: true, New: flagPCRs,
				Usage: "PCRs a tpm key is sealed under",
			},
			{
				Name: flagZeroPCRs, Value: "false", For: keys.ForMaking | keys.ForAll, Env: true, Bool: true,
				Usage: "seal even if the firmware measured nothing; such a slot opens whatever boots",
			},
			{
				Name: flagPINFile, For: keys.ForSettings | keys.ForPerson, Env: true, New: flagPIN,
				Usage: "file with the PIN of tpm slots; the plugin gives this PIN to the slot of a new vault",
			},
			{
				Name: flagPCRs, For: keys.ForEnroll | keys.ForReseal, Check: checkPCRs,
				Usage: "PCRs of a tpm slot: 0-4,6-9,12-14, sha384:7 or none (default: those of the slot that is resealed, or the setting pcrs, or " + DefaultPCRs + ")",
			},
			{
				Name: flagSignedBy, For: keys.ForEnroll,
				Usage: "PEM file of a public key: a tpm slot also opens at PCR values that this key signed; see key sign-policy",
			},
			{
				Name: flagPIN, For: keys.ForEnroll, Ask: true,
				Usage: "protect a tpm slot with a PIN, asked for on the terminal or read from a file (--pin=FILE)",
			},
		},
		Hardware: &keys.Hardware{
			Title: "TPM",
			Present: func(s keys.Settings) error {
				_, err := Locate(s.Set[flagTPM])
				return err
			},
			Anchor: func(s keys.Settings) keys.Anchor { return NewAnchor(s.Set[flagTPM], s.Unmeasured) },
			Check:  func(s keys.Settings, wanted bool, _ []keys.Slot) []keys.Finding { return checkHost(s, wanted) },
		},
		New:      newSlot,
		Open:     openSlots,
		Again:    sealAgain,
		Admit:    admit,
		Unsteady: unsteady,
		Faults:   faults(),
	}
}

func checkPCRs(value string) error {
	_, err := ParsePCRs(value)
	return err
}

// opening reads the settings that opening a slot takes.
func opening(s keys.Settings) (cfg Config, err error) {
	cfg = Config{Path: s.Set[flagTPM], Policies: PoliciesPath(s.Tier)}
	if cfg.AllowZeroPCRs, err = s.Set.Bool(flagZeroPCRs); err != nil {
		return cfg, err
	}
	cfg.PIN = secret(s, s.Set[flagPINFile], "PIN")
	return cfg, nil
}

// secret returns the function that reads the secret named by a flag's value; nil
// without a value.
func secret(s keys.Settings, from, what string) func(context.Context) ([]byte, error) {
	if from == "" || s.Secret == nil {
		return nil
	}
	return func(ctx context.Context) ([]byte, error) { return s.Secret(ctx, from, what) }
}

func openSlots(s keys.Settings) (keys.Provider, error) {
	cfg, err := opening(s)
	if err != nil {
		return nil, err
	}
	if _, err := leastPCRs(s); err != nil {
		return nil, err
	}
	return New(cfg), nil
}

// newPCRs is the PCR selection of a new slot.
func newPCRs(s keys.Settings) (Selection, error) {
	text := s.New[flagPCRs]
	if text == "" {
		text = s.Set[flagPCRs]
	}
	if text == "" {
		text = DefaultPCRs
	}
	return ParsePCRs(text)
}

// describing reads the settings that a new slot takes.
func describing(s keys.Settings) (Config, error) {
	cfg, err := opening(s)
	if err != nil {
		return cfg, err
	}
	if cfg.PCRs, err = newPCRs(s); err != nil {
		return cfg, err
	}
	if cfg.SignedBy, err = readPublic(s.New[flagSignedBy]); err != nil {
		return cfg, err
	}
	cfg.NewPIN = secret(s, s.New[flagPIN], "new PIN")
	return cfg, nil
}

func newSlot(_ context.Context, s keys.Settings) (keys.Provider, error) {
	cfg, err := describing(s)
	if err != nil {
		return nil, err
	}
	return New(cfg), nil
}

// sealAgain makes a provider that reseals slot to the current values of its PCRs, or of the
// given ones, with the same signer and PIN.
func sealAgain(_ context.Context, s keys.Settings, slot keys.Slot) (keys.Provider, error) {
	cfg, err := describing(s)
	if err != nil {
		return nil, err
	}
	sealing, err := SealingOf(slot.Blob)
	if err != nil {
		return New(cfg), nil // a damaged slot says nothing: as a new one
	}
	if s.New[flagPCRs] == "" {
		cfg.PCRs = sealing.PCRs
	}
	cfg.SignedBy, cfg.NewPIN = sealing.SignedBy, nil
	if sealing.PIN {
		if cfg.PIN == nil {
			return nil, fmt.Errorf("slot %s: %w: --pin-file is not set", slot.Title(), ErrNoPIN)
		}
		cfg.NewPIN, cfg.KeepPIN = cfg.PIN, true
	}
	return New(cfg), nil
}

// maxPEM bounds what is read as a public key; RSA of 4096 bits takes 800 bytes.
const maxPEM = 64 << 10

// readPublic reads the public key of a policy's signer; nil without a path.
func readPublic(path string) (crypto.PublicKey, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	key, err := ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// leastPCRs is the minimal selection for opening without a person; without a setting
// any selection except none is enough.
func leastPCRs(s keys.Settings) (Selection, error) {
	if s.Set[flagPCRs] == "" {
		return Selection{}, nil
	}
	return ParsePCRs(s.Set[flagPCRs])
}

// admit rejects a slot sealed to less than the settings require.
func admit(s keys.Settings, blob json.RawMessage) error {
	least, err := leastPCRs(s)
	if err != nil {
		return err
	}
	if s.Unmeasured || s.Set[flagPCRs] != "" && least.None() {
		return nil
	}
	sealing, err := SealingOf(blob)
	if err != nil {
		return err
	}
	missing := least.Without(sealing.PCRs)
	switch {
	case sealing.PCRs.None():
		return &keys.WeakSlot{Why: "sealed to no PCRs, opens whatever boots", Setting: flagPCRs, Value: "none", PCRs: DefaultPCRs}
	case len(missing.PCRs) != 0:
		return &keys.WeakSlot{
			Why:     fmt.Sprintf("sealed to PCRs %s, setting is pcrs=%s: %s is missing", sealing.PCRs, least, missing),
			Setting: flagPCRs, Value: sealing.PCRs.String(), PCRs: least.String(),
		}
	}
	return nil
}

// unsteady finds the PCRs of a slot that change in the course of a boot of this machine. A
// new slot with a signer is left out: other values are approved for it.
func unsteady(s keys.Settings, blob json.RawMessage) []keys.Finding {
	var sel Selection
	var err error
	if blob != nil {
		var sealing Sealing
		sealing, err = SealingOf(blob)
		sel = sealing.PCRs
	} else if s.New[flagSignedBy] == "" {
		sel, err = newPCRs(s)
	}
	if err != nil {
		return nil // told where the slot is made or opened
	}
	var out []keys.Finding
	for _, why := range Unsteady(sel) {
		out = append(out, keys.Finding{
			Verdict: keys.Warning, Detail: why,
			Fix: "layervault key reseal --pcrs " + DefaultPCRs + " leaves that PCR out; or sign policies (key enroll tpm --signed-by)",
		})
	}
	return out
}
