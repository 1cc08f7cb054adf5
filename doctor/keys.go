package doctor

import (
	"context"
	"fmt"

	"layervault/keys"
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
		out = append(out, checkSteady(cfg, ring, slot.ID)...)
	}
	return append(out, checkAnchor(cfg, ring))
}

// checkSteady looks whether what a slot is sealed to changes in the course of a boot.
func checkSteady(cfg unlock.Config, ring *keys.Ring, id string) []Finding {
	slot, err := ring.Slot(id)
	if err != nil {
		return nil
	}
	out := asFindings(cfg.Unsteady(slot))
	for i := range out {
		out[i].Detail = "slot " + id + " may not open early in the next boot: " + out[i].Detail
	}
	return out
}

// checkAnchor looks whether an older key ring would be noticed.
func checkAnchor(cfg unlock.Config, ring *keys.Ring) Finding {
	if ring.Anchored() {
		return ok("%s", vault.AnchorLine(true))
	}
	switch {
	case cfg.NoAnchor:
		return warn("anchor=tpm, then: layervault key reseal", "%s: it was set so (anchor=none)", vault.AnchorLine(false))
	case !cfg.CanAnchor():
		return warn("", "%s: there is no TPM", vault.AnchorLine(false))
	}
	return warn("layervault key reseal", "%s", vault.AnchorLine(false))
}
