package luks2

import "slices"

// SeqID counts the updates of the header.
func (h *Header) SeqID() uint64 { return h.bin.seqID }

// Requirements are the mandatory requirements.
func (h *Header) Requirements() []string { return slices.Clone(h.meta.requirements) }

// SetFlags replaces the persistent activation flags: a change of the header like any other.
func (h *Header) SetFlags(f File, flags []string) error {
	return h.change(f, func(doc object) error {
		doc["config"].(object)["flags"] = toAny(flags)
		return nil
	})
}
