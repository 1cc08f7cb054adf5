package trusted

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"layervault/keys"
)

// flagSource is the provider's flag.
const flagSource = "source"

// Kind is this provider for the list of all.
func Kind() keys.Kind {
	return keys.Kind{
		Name:  Name,
		About: "a trusted key of the kernel (--source): i.MX CAAM and DCP, a TEE, a TPM",
		Help:  "Sources of trusted keys:\n  " + Help,
		Flags: []keys.Flag{{
			Name: flagSource, For: keys.ForMaking | keys.ForAll, Env: true,
			Usage: "source of new trusted slots: " + sourceNames + "; see key enroll --help",
		}},
		Hardware: &keys.Hardware{Title: "trusted keys", Check: checkHost},
		New:      func(_ context.Context, s keys.Settings) (keys.Provider, error) { return fromSettings(s) },
		Open:     fromSettings,
		Again:    sealAgain,
		Faults: []keys.Fault{
			{Err: ErrOtherChip, Class: keys.ClassHost, Step: "layervault key recover"},
			{Err: ErrBadSource, Class: keys.ClassUsage, Step: "choose the source: docker plugin set layervault source=SOURCE (or --source SOURCE): " + sourceNames},
			{Err: errKernel, Class: keys.ClassHost, Telling: true, StepFor: kernelStep},
			{Err: ErrNoTrusted, Class: keys.ClassHost, Step: "layervault doctor; without such a chip: docker plugin set layervault key=tpm (or key=versatile)"},
		},
	}
}

func fromSettings(s keys.Settings) (keys.Provider, error) {
	src, err := ParseSource(s.Set[flagSource])
	if err != nil {
		return nil, err
	}
	return New(Config{Source: src, Log: s.Log}), nil
}

// sealAgain makes a provider of the slot's own source, unless another is set.
func sealAgain(_ context.Context, s keys.Settings, slot keys.Slot) (keys.Provider, error) {
	if src, err := SourceOf(slot.Blob); err == nil && s.Set[flagSource] == "" {
		s.Set = s.Set.With(flagSource, src.String())
	}
	return fromSettings(s)
}

// checkHost examines the kernel's trusted keys if the vault needs them: by the setting, or
// for a slot.
func checkHost(s keys.Settings, wanted bool, slots []keys.Slot) []keys.Finding {
	sources := map[string]Source{}
	if wanted {
		src, err := ParseSource(s.Set[flagSource])
		if err != nil || src.None() {
			return []keys.Finding{{
				Verdict: keys.Missing, Detail: fmt.Sprintf("key=trusted needs a source; source=%q is invalid", s.Set[flagSource]),
				Fix: "docker plugin set layervault source=caam (or tpm, dcp, tee, tagged)",
			}}
		}
		sources[src.String()] = src
	}
	for _, slot := range slots {
		if src, err := SourceOf(slot.Blob); slot.Provider == Name && err == nil {
			sources[src.String()] = src
		}
	}
	if len(sources) == 0 {
		return []keys.Finding{{Verdict: keys.Good, Detail: "not used"}}
	}
	var out []keys.Finding
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		out = append(out, checkSource(sources[name]))
	}
	return out
}

// checkSource checks whether the kernel makes keys of src, and how strong they are.
func checkSource(src Source) keys.Finding {
	if err := Available(src); err != nil {
		return keys.Finding{Verdict: keys.Missing, Detail: err.Error(), Fix: "a kernel with that source, or: layervault key recover with another slot"}
	}
	why, err := Weakness(src)
	switch {
	case err != nil:
		return keys.Finding{
			Verdict: keys.Warning, Detail: fmt.Sprintf("%s: cannot check whether the chip seals with a test key: %v", src, err),
			Fix: "run doctor as root, outside of containers",
		}
	case why != "":
		return keys.Finding{
			Verdict: keys.Warning, Detail: fmt.Sprintf("%s: slots protect nothing: %s", src, why),
			Fix: "fuse the board and switch secure boot (HAB) on, then: layervault key reseal",
		}
	}
	return keys.Finding{Verdict: keys.Good, Detail: src.String()}
}
