package tpm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// DefaultPCRs are the firmware, option ROMs, boot loader, kernel and what they were told:
// what EVE seals to, without what changes while a machine runs (see Unsteady).
const DefaultPCRs = "0-4,6-9,12-14"

// maxPCR is the last PCR of the PC client profile (24 PCRs).
const maxPCR = 23

// Selection is which PCRs a key is sealed to. The zero value selects none.
type Selection struct {
	Bank string // "sha256", "sha384", "sha1" (never chosen by default)
	PCRs []int  // ascending, each 0..23
}

// banks are the PCR banks we know, by the name people type.
var banks = map[string]tpm2.TPMAlgID{
	"sha1":   tpm2.TPMAlgSHA1,
	"sha256": tpm2.TPMAlgSHA256,
	"sha384": tpm2.TPMAlgSHA384,
	"sha512": tpm2.TPMAlgSHA512,
}

// ParsePCRs reads "0-4,6-9,12-14", "sha384:0,7" or "none". The bank is sha256 when none
// is given. An empty text is an error: "none" must be said. Error: ErrBadPCRs.
func ParsePCRs(text string) (Selection, error) {
	fail := func(format string, args ...any) (Selection, error) {
		return Selection{}, fmt.Errorf("%w: pcrs %q: %s; examples: %q, \"sha256:7\", \"none\"",
			ErrBadPCRs, text, fmt.Sprintf(format, args...), DefaultPCRs)
	}
	list := strings.ToLower(strings.TrimSpace(text))
	if list == "none" {
		return Selection{}, nil
	}
	sel := Selection{Bank: "sha256"}
	if bank, rest, ok := strings.Cut(list, ":"); ok {
		if _, known := banks[bank]; !known {
			return fail("unknown bank %q", bank)
		}
		sel.Bank, list = bank, rest
	}
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := parseIndex(lo)
		if err != nil {
			return fail("%v", err)
		}
		last := first
		if isRange {
			if last, err = parseIndex(hi); err != nil {
				return fail("%v", err)
			}
		}
		if last < first {
			return fail("range %q runs backwards", part)
		}
		for i := first; i <= last; i++ {
			sel.PCRs = append(sel.PCRs, i)
		}
	}
	slices.Sort(sel.PCRs)
	sel.PCRs = slices.Compact(sel.PCRs)
	return sel, nil
}

func parseIndex(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%q is not a PCR index", s)
	}
	if n > maxPCR {
		return 0, fmt.Errorf("PCR %d is out of range 0..%d", n, maxPCR)
	}
	return int(n), nil
}

// None says that the selection is empty: the key is bound to the TPM alone.
func (s Selection) None() bool { return len(s.PCRs) == 0 }

// String is the form that ParsePCRs reads, with the bank.
func (s Selection) String() string {
	if s.None() {
		return "none"
	}
	var parts []string
	for i := 0; i < len(s.PCRs); {
		j := i
		for j+1 < len(s.PCRs) && s.PCRs[j+1] == s.PCRs[j]+1 {
			j++
		}
		if j-i >= 2 {
			parts = append(parts, fmt.Sprintf("%d-%d", s.PCRs[i], s.PCRs[j]))
		} else {
			for k := i; k <= j; k++ {
				parts = append(parts, strconv.Itoa(s.PCRs[k]))
			}
		}
		i = j + 1
	}
	return s.Bank + ":" + strings.Join(parts, ",")
}

// valid checks a selection that came from a file.
func (s Selection) valid() error {
	if s.None() {
		return nil
	}
	again, err := ParsePCRs(s.String())
	if err != nil {
		return err
	}
	if !slices.Equal(again.PCRs, s.PCRs) {
		return fmt.Errorf("pcrs %v are not in ascending order", s.PCRs)
	}
	return nil
}

// Without gives the PCRs of s that other does not have. PCRs of another bank count, but
// for SHA-1's, whose measurements can be forged.
func (s Selection) Without(other Selection) Selection {
	out := Selection{Bank: s.Bank}
	for _, n := range s.PCRs {
		if !slices.Contains(other.PCRs, n) || other.Bank == "sha1" && s.Bank != "sha1" {
			out.PCRs = append(out.PCRs, n)
		}
	}
	return out
}

func (s Selection) list() tpm2.TPMLPCRSelection {
	indexes := make([]uint, len(s.PCRs))
	for i, n := range s.PCRs {
		indexes[i] = uint(n)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      banks[s.Bank],
		PCRSelect: tpm2.PCClientCompatible.PCRs(indexes...),
	}}}
}
