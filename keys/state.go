package keys

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
)

// slotTimeout bounds one try of one slot. A TPM answers in about a second; the
// slowest known chips take ten to make a primary key.
const slotTimeout = 60 * time.Second

// patient is a Provider whose tries may take longer, because it was set so.
type patient interface{ Patience() time.Duration }

func timeoutOf(p Provider) time.Duration {
	if w, ok := p.(patient); ok {
		return max(slotTimeout, w.Patience())
	}
	return slotTimeout
}

// SlotState is a slot for people and for --json: no secret in it.
type SlotState struct {
	ID       string         `json:"id"`
	Provider string         `json:"provider"`
	Label    string         `json:"label,omitempty"`
	Created  time.Time      `json:"created"`
	PCRs     string         `json:"pcrs,omitempty"`
	Software bool           `json:"software_only"`
	Detail   string         `json:"detail,omitempty"`
	State    State          `json:"state"`
	Reason   string         `json:"reason,omitempty"`
	Changed  []*PCRMismatch `json:"changed_pcrs,omitempty"`
}

// State is the present state of a slot.
type State string

// The states of a slot.
const (
	StateUnknown State = "not tried" // Summary does not try
	StateOpens   State = "opens"
	StatePerson  State = "needs a person"
	StateFails   State = "fails"
)

// Summary describes the slots without trying them: cheap, no hardware.
func (r *Ring) Summary(providers ...Provider) []SlotState {
	slots := r.Slots()
	out := make([]SlotState, len(slots))
	for i, s := range slots {
		out[i] = describe(s, providers)
	}
	return out
}

// Probe describes the slots and tries each that needs no person.
func (r *Ring) Probe(ctx context.Context, providers ...Provider) []SlotState {
	body := r.snapshot()
	out := make([]SlotState, len(body.Slots))
	for i, s := range body.Slots {
		out[i] = describe(s, providers)
		p := providerFor(s, providers)
		if p == nil || out[i].State != StateUnknown {
			continue
		}
		key, err := body.open(ctx, s, p)
		if err == nil {
			err = errors.Join(r.lookUp(ctx, key, body).err, key.Close())
		}
		switch {
		case err == nil:
			out[i].State = StateOpens
		case errors.Is(err, ErrNeedsPerson):
			out[i].State = StatePerson
		default:
			out[i].State, out[i].Reason, out[i].Changed = StateFails, err.Error(), ChangedPCRs(err)
		}
	}
	return out
}

// Try opens one slot with p and says why it does not.
func (r *Ring) Try(ctx context.Context, id string, p Provider) error {
	slot, err := r.Slot(id)
	if err != nil {
		return err
	}
	key, err := r.snapshot().open(ctx, slot, p)
	if err != nil {
		return err
	}
	return key.Close()
}

func describe(s Slot, providers []Provider) SlotState {
	st := SlotState{ID: s.ID, Provider: s.Provider, Label: printable(s.Label), Created: s.Created, State: StateUnknown}
	p := providerFor(s, providers)
	if p == nil {
		st.State, st.Reason = StateFails, "unknown provider"
		return st
	}
	d := p.Describe(s.Blob)
	st.PCRs, st.Software, st.Detail = d.PCRs, d.Software, printable(d.Detail)
	if d.Person {
		st.State = StatePerson
	}
	return st
}

// printable replaces what a terminal would take for a command: the text is from the disk,
// and shown before the ring is authenticated.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func providerFor(s Slot, providers []Provider) Provider {
	for _, p := range providers {
		if p.Name() == s.Provider {
			return p
		}
	}
	return nil
}
