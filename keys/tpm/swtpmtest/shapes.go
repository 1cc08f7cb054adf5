package swtpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// What is done to TPMs in the field.

func hierarchy(h tpm2.TPMHandle, auth string) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth([]byte(auth))}
}

// Password gives a hierarchy (tpm2.TPMRHOwner, tpm2.TPMRHLockout) a password.
func (t *TPM) Password(of tpm2.TPMHandle, password string) {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: hierarchy(of, ""), NewAuth: tpm2.TPM2BAuth{Buffer: []byte(password)}}.Execute(chip)
		return err
	})
}

// Persist puts a primary key of the owner hierarchy at a persistent handle; owner and
// password are the owner's and the key's, "" for none.
func (t *TPM) Persist(template tpm2.TPMTPublic, at tpm2.TPMHandle, owner, password string) {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		key, err := tpm2.CreatePrimary{
			PrimaryHandle: hierarchy(tpm2.TPMRHOwner, owner),
			InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte(password)}}},
			InPublic:      tpm2.New2B(template),
		}.Execute(chip)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth:             hierarchy(tpm2.TPMRHOwner, owner),
			ObjectHandle:     &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			PersistentHandle: at,
		}.Execute(chip)
		if err != nil {
			return err
		}
		_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(chip)
		return err
	})
}

// Evict removes a persistent key.
func (t *TPM) Evict(at tpm2.TPMHandle) {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		public, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(chip)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth: hierarchy(tpm2.TPMRHOwner, ""), ObjectHandle: &tpm2.NamedHandle{Handle: at, Name: public.Name}, PersistentHandle: at,
		}.Execute(chip)
		return err
	})
}

// Clear is TPM2_Clear, as a firmware's menu does it.
func (t *TPM) Clear() {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: hierarchy(tpm2.TPMRHLockout, "")}.Execute(chip)
		return err
	})
}

// Property reads one property of the TPM.
func (t *TPM) Property(p tpm2.TPMPT) (value uint32) {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(chip)
		if err != nil {
			return err
		}
		list, err := rsp.CapabilityData.Data.TPMProperties()
		if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != p {
			return fmt.Errorf("property %x: %v, %w", p, list, err)
		}
		value = list.TPMProperty[0].Value
		return nil
	})
	return value
}

// Failures is how many failed authorisations the TPM counts.
func (t *TPM) Failures() int { return int(t.Property(tpm2.TPMPTLockoutCounter)) }

// LockOut fails authorisations, of an object of its own, until the TPM refuses all that
// count.
func (t *TPM) LockOut() {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		template := tpm2.ECCSRKTemplate
		template.ObjectAttributes.NoDA = false
		key, err := tpm2.CreatePrimary{
			PrimaryHandle: hierarchy(tpm2.TPMRHOwner, ""),
			InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
			InPublic:      tpm2.New2B(template),
		}.Execute(chip)
		if err != nil {
			return err
		}
		for range 100 {
			trial, end, err := tpm2.PolicySession(chip, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
			if err != nil {
				return err
			}
			_, tried := tpm2.PolicySecret{
				AuthHandle:    tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
				PolicySession: trial.Handle(),
			}.Execute(chip)
			if err := end(); err != nil {
				return err
			}
			if errors.Is(tried, tpm2.TPMRCLockout) {
				_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(chip)
				return err
			}
		}
		return fmt.Errorf("no lockout after 100 failures")
	})
}

// Banks switches PCR banks on, and all others off, from the next Restart on.
func (t *TPM) Banks(on ...tpm2.TPMAlgID) {
	t.tb.Helper()
	// TPM2_PCR_Allocate, TPM 2.0 part 3, section 22.5; go-tpm does not have it.
	body := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHPlatform))
	body = append(body, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0) // an empty password
	all := []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}
	body = binary.BigEndian.AppendUint32(body, uint32(len(all)))
	for _, alg := range all {
		pcrs := byte(0)
		for _, want := range on {
			if want == alg {
				pcrs = 0xff
			}
		}
		body = binary.BigEndian.AppendUint16(body, uint16(alg))
		body = append(body, 3, pcrs, pcrs, pcrs)
	}
	command := binary.BigEndian.AppendUint32([]byte{0x80, 0x02}, uint32(10+len(body)))
	command = append(binary.BigEndian.AppendUint32(command, 0x12b), body...)
	t.Do(func(chip transport.TPM) error {
		answer, err := chip.Send(command)
		if err != nil {
			return err
		}
		if code := binary.BigEndian.Uint32(answer[6:]); code != 0 {
			return fmt.Errorf("allocate PCRs: %w", tpm2.TPMRC(code))
		}
		return nil
	})
}

// FillSessions leaves sessions in the TPM until it has no room for another, as a program
// does that works without a resource manager and dies.
func (t *TPM) FillSessions() {
	t.tb.Helper()
	t.Do(func(chip transport.TPM) error {
		for range 100 {
			if _, _, err := tpm2.HMACSession(chip, tpm2.TPMAlgSHA256, 16); err != nil {
				return nil // full
			}
		}
		return fmt.Errorf("there is room for 100 sessions")
	})
}

// WithoutECC gives a socket to a TPM that has no elliptic curves, like the first of TPM 2.0.
func (t *TPM) WithoutECC() (socket string) {
	const getCapability, createPrimary = 0x17a, 0x131
	return t.Interpose(func(command []byte, next func([]byte) []byte) []byte {
		switch binary.BigEndian.Uint32(command[6:]) {
		case getCapability:
			// Asked for the algorithms from ECC (0x23) on it has the next one.
			if binary.BigEndian.Uint32(command[10:]) == uint32(tpm2.TPMCapAlgs) && binary.BigEndian.Uint32(command[14:]) == uint32(tpm2.TPMAlgECC) {
				binary.BigEndian.PutUint32(command[14:], uint32(tpm2.TPMAlgECC)+1)
			}
		case createPrimary:
			public := bytesAfterSensitive(command)
			if tpm2.TPMAlgID(binary.BigEndian.Uint16(public)) == tpm2.TPMAlgECC {
				return Failure(uint32(tpm2.TPMRCType) | 0x40 | 0x200) // the second parameter
			}
		}
		return next(command)
	})
}

// bytesAfterSensitive is the public area in CreatePrimary.
func bytesAfterSensitive(command []byte) []byte {
	rest := command[14:]                               // header, hierarchy
	rest = rest[4+binary.BigEndian.Uint32(rest):]      // authorisations
	rest = rest[2+int(binary.BigEndian.Uint16(rest)):] // sensitive
	return rest[2:]
}
