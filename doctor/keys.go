package doctor

import (
	"context"
	"errors"
	"fmt"

	"layervault/keys"
	"layervault/keys/tpm"
	"layervault/keys/unlock"
	"layervault/vault"
)

// checkSlots tries the vault's slots: a running plugin has its key for long, and what keeps
// the next start from opening the vault is to be known before.
func (h Host) checkSlots(ctx context.Context) []Finding {
	cfg := h.Keys
	ring, err := cfg.Load(ctx)
	if err != nil {
		return nil // checkRecovery says it
	}
	cfg.Looking = true
	providers, err := cfg.Providers()
	if err != nil {
		return []Finding{warn(h.NextStep(err), "%v", err)}
	}
	var out []Finding
	for _, slot := range ring.Probe(ctx, providers...) {
		title := fmt.Sprintf("slot %s (%s)", slot.ID, slot.Provider)
		switch {
		case slot.State == keys.StateOpens:
			out = append(out, ok("%s opens", title))
		case slot.State == keys.StatePerson:
		case len(slot.Changed) > 0:
			for _, c := range slot.Changed {
				out = append(out, warn("if you know why it changed: layervault key reseal, else find out before you restart anything",
					"%s does not open at the next start: PCR %d (%s) was %s and is %s", title, c.Index, c.Bank, c.Old, c.New))
			}
		default:
			out = append(out, warn("layervault key list; a slot that is of no use: layervault key remove "+slot.ID, "%s: %s", title, slot.Reason))
		}
		out = append(out, checkSteady(slot)...)
	}
	return append(out, checkAnchor(cfg, ring))
}

// checkSteady looks whether a slot's PCRs change in the course of a boot of this machine.
func checkSteady(slot keys.SlotState) []Finding {
	if slot.Provider != tpm.Name || slot.PCRs == "" {
		return nil
	}
	sel, err := tpm.ParsePCRs(slot.PCRs)
	if err != nil {
		return nil // a damaged slot, whose reason is told
	}
	var out []Finding
	for _, why := range tpm.Unsteady(sel) {
		out = append(out, warn("layervault key reseal --pcrs "+tpm.DefaultPCRs, "slot %s may not open early in the next boot: %s", slot.ID, why))
	}
	return out
}

// checkAnchor looks whether an older key ring would be noticed.
func checkAnchor(cfg unlock.Config, ring *keys.Ring) Finding {
	if ring.Anchored() {
		return ok("%s", vault.AnchorLine(true))
	}
	_, err := tpm.Locate(cfg.TPM)
	switch {
	case cfg.NoAnchor:
		return warn("anchor=tpm, then: layervault key reseal", "%s: it was set so (anchor=none)", vault.AnchorLine(false))
	case errors.Is(err, keys.ErrNoTPM):
		return warn("", "%s: there is no TPM", vault.AnchorLine(false))
	}
	return warn("layervault key reseal", "%s", vault.AnchorLine(false))
}
