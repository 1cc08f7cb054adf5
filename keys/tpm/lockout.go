package tpm

import (
	"fmt"
	"math"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A PIN depends on the TPM's protection against guessing ("dictionary attack", TPM 2.0
// part 1, section 19.8): after MaxTries failures the TPM refuses, and forgets one failure
// every Recovery. The lockout authorisation can clear the count; on most machines it is
// empty, so anyone can clear it, and only the speed of the TPM bounds guessing.

// lockoutRules are those of one TPM.
type lockoutRules struct {
	AuthSet  bool          // the lockout authorisation is not empty
	MaxTries int           // 0: lockout is off
	Recovery time.Duration // one failure is forgotten after this long; 0: none counts
}

// guessesPerSecond is the number of PINs that a fast TPM tries without lockout:
// discrete TPMs take 50 to 200 ms for a session and an HMAC, firmware TPMs less.
const guessesPerSecond = 100

// pinMargin: the number of numeric PINs must be this multiple of the guesses in a year,
// so that a year of guessing succeeds with one chance in pinMargin.
const pinMargin = 10

// guessesPerYear is the number of guesses in a year with access to the machine.
func (r lockoutRules) guessesPerYear() float64 {
	const year = 365 * 24 * time.Hour
	if !r.AuthSet || r.MaxTries == 0 || r.Recovery == 0 {
		return guessesPerSecond * year.Seconds()
	}
	return float64(r.MaxTries) + float64(year/r.Recovery)
}

// leastPIN is the least length of a new PIN in characters, for a PIN of digits alone.
func (r lockoutRules) leastPIN() int {
	return max(minPIN, int(math.Ceil(math.Log10(pinMargin*r.guessesPerYear()))))
}

// judge rejects a new PIN that the TPM cannot protect for long.
func (r lockoutRules) judge(pin []byte) error {
	least := r.leastPIN()
	if len(pin) >= least {
		return nil
	}
	set := lockoutRules{AuthSet: true, MaxTries: r.MaxTries, Recovery: r.Recovery}.leastPIN()
	switch {
	case !r.AuthSet && set < least:
		return fmt.Errorf("%w: %d characters, minimum is %d while no lockout authorisation is set and anyone can clear the lockout; minimum is %d with one",
			ErrWeakPIN, len(pin), least, set)
	case r.MaxTries == 0 || r.Recovery == 0:
		return fmt.Errorf("%w: %d characters, minimum is %d: %w", ErrWeakPIN, len(pin), least, ErrNoCounting)
	}
	return fmt.Errorf("%w: %d characters, minimum is %d for this TPM (%d tries, one more every %s)",
		ErrWeakPIN, len(pin), least, r.MaxTries, r.Recovery)
}

// lockoutRules reads those of the TPM.
func (d *device) lockoutRules() (r lockoutRules, err error) {
	permanent, err := d.properties(tpm2.TPMPTPermanent, 1)
	if err != nil {
		return r, err
	}
	const lockoutAuthSet = 1 << 2 // TPMA_PERMANENT, TPM 2.0 part 2, section 8.6
	r.AuthSet = permanent[tpm2.TPMPTPermanent]&lockoutAuthSet != 0
	numbers, err := d.properties(tpm2.TPMPTMaxAuthFail, 2)
	if err != nil {
		return r, err
	}
	r.MaxTries = int(numbers[tpm2.TPMPTMaxAuthFail])
	r.Recovery = time.Duration(numbers[tpm2.TPMPTLockoutInterval]) * time.Second
	return r, nil
}

// properties reads n properties of the TPM from first on.
func (d *device) properties(first tpm2.TPMPT, n uint32) (map[tpm2.TPMPT]uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: n}.Execute(d)
	if err != nil {
		return nil, fmt.Errorf("read TPM properties: %w", d.explain(err))
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, fmt.Errorf("read TPM properties: %w", err)
	}
	out := map[tpm2.TPMPT]uint32{}
	for _, p := range list.TPMProperty {
		out[p.Property] = p.Value
	}
	return out, nil
}
