package tpm

import (
	"fmt"
	"math"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A PIN rests on the TPM's protection against guessing ("dictionary attack", TPM 2.0 part
// 1, section 19.8): after MaxTries failures it refuses, and forgets one failure each
// Recovery. Whoever has the lockout authorisation can clear the count; on most machines it
// is empty, so everybody has it, and only the speed of the TPM bounds guessing.

// lockoutRules are those of one TPM.
type lockoutRules struct {
	AuthSet  bool          // the lockout authorisation is not empty
	MaxTries int           // 0: lockout is off
	Recovery time.Duration // one failure is forgotten after this long; 0: none counts
}

// guessesPerSecond is how many PINs a fast TPM tries when nothing keeps it from that:
// discrete ones take 50 to 200 ms for a session and an HMAC, those in firmware less.
const guessesPerSecond = 100

// pinMargin: a PIN of digits shall outlast a year of guessing this many times, so that a
// guess within a year has one chance in that many.
const pinMargin = 10

// guessesPerYear is how often somebody who has the machine can guess.
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

// judge refuses a new PIN that the TPM does not protect for long.
func (r lockoutRules) judge(pin []byte) error {
	least := r.leastPIN()
	if len(pin) >= least {
		return nil
	}
	set := lockoutRules{AuthSet: true, MaxTries: r.MaxTries, Recovery: r.Recovery}.leastPIN()
	switch {
	case !r.AuthSet && set < least:
		return fmt.Errorf("%w: it has %d characters, and %d are the least while everybody can clear this TPM's lockout (no lockout authorisation is set); set one, and %d will do: tpm2_changeauth -c lockout PASSWORD",
			ErrWeakPIN, len(pin), least, set)
	case r.MaxTries == 0 || r.Recovery == 0:
		return fmt.Errorf("%w: it has %d characters, and %d are the least while this TPM counts no failures; have it count: tpm2_dictionarylockout -s -n 32 -t 600 -l 86400",
			ErrWeakPIN, len(pin), least)
	}
	return fmt.Errorf("%w: it has %d characters, and %d are the least for this TPM (%d tries, one more each %s)",
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
		return nil, fmt.Errorf("read the TPM's properties: %w", d.explain(err))
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, fmt.Errorf("read the TPM's properties: %w", err)
	}
	out := map[tpm2.TPMPT]uint32{}
	for _, p := range list.TPMProperty {
		out[p.Property] = p.Value
	}
	return out, nil
}
