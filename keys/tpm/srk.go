package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Persistent handles where a storage root key may be. The TCG provisioning guidance
// and systemd put it at 0x81000001; EVE has its endorsement key there and the storage
// root key at the next one. So nothing is taken for a storage key by its handle.
var srkHandles = []tpm2.TPMHandle{0x81000001, 0x81000002}

// root is the storage root key used for sealing.
type root struct {
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	transient bool // made by this process, which must flush it
}

// nameOf computes the name of an object from its public area (TPM 2.0 part 1, section
// 16). The name reported by the TPM, or by an interposer, is only compared: a session is
// salted with the public area, so an interposer that swaps the area and keeps the name
// could read all traffic. (A variable, so that a test can demonstrate this.)
var nameOf = func(public *tpm2.TPMTPublic, told tpm2.TPM2BName) (*tpm2.TPM2BName, error) {
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, fmt.Errorf("name of a key: %w", err)
	}
	if !bytes.Equal(name.Buffer, told.Buffer) {
		return nil, fmt.Errorf("%w: response names key %x, computed name is %x", ErrForgedAnswer, told.Buffer, name.Buffer)
	}
	return name, nil
}

// findRoot returns the storage root key of a slot, by its name: ErrOtherTPM if this TPM has
// no such key. at is the handle of a persistent key; 0 if the slot used none, or names
// none. With again, persistent keys are skipped: the matching one rejected an empty
// password, which its name does not show.
//
// The first use is trust on first use: an attacker on the bus at the first sealing can
// substitute a key of their own, with a correct name.
func (d *device) findRoot(want []byte, at tpm2.TPMHandle, again bool) (*root, error) {
	for _, handle := range srkHandles {
		if again {
			break
		}
		r, err := d.persistentRoot(handle)
		if err != nil {
			return nil, err
		}
		if r != nil && bytes.Equal(r.name.Buffer, want) {
			return r, nil
		}
	}
	var here [][]byte
	var last error
	for _, template := range d.templates() {
		r, err := d.primaryRoot(template)
		if errors.Is(err, ErrForgedAnswer) {
			return nil, err
		}
		if err != nil {
			last = err
			continue
		}
		if bytes.Equal(r.name.Buffer, want) {
			return r, nil
		}
		here = append(here, r.name.Buffer)
		d.releaseRoot(r)
	}
	switch {
	case at != 0:
		return nil, fmt.Errorf("%w: storage key %#x of the slot is missing or different: evicted, or TPM cleared or replaced", ErrOtherTPM, uint32(at))
	case len(here) == 0:
		return nil, last
	}
	return nil, fmt.Errorf("%w, or this TPM was cleared, or the persistent storage key was evicted: slot needs storage key %x, this TPM has %x",
		ErrOtherTPM, want, here)
}

// chooseRoot returns a storage root key for new slots: a persistent one that is usable,
// else the standard primary of the owner hierarchy, created again (the same template gives
// the same key until the TPM is cleared).
//
// Skipped are keys subject to the dictionary attack lockout (no TPMA_OBJECT_NODA:
// failures of other programs would lock the slot, and a try with a wrong password would
// lock theirs) and keys with a password.
func (d *device) chooseRoot() (*root, error) {
	var passed []error
	for _, handle := range srkHandles {
		r, err := d.persistentRoot(handle)
		if err != nil {
			return nil, err
		}
		if r == nil || r.public.Type == tpm2.TPMAlgRSA && d.hasECC() {
			continue
		}
		if err := d.usable(r); err != nil {
			passed = append(passed, err)
			continue
		}
		return r, nil
	}
	var err error
	for _, template := range d.templates() {
		var r *root
		if r, err = d.primaryRoot(template); err == nil {
			return r, nil
		}
		if errors.Is(err, ErrForgedAnswer) {
			break
		}
	}
	return nil, errors.Join(append(passed, err)...)
}

// usable returns the reason why a persistent key must not be used for sealing.
func (d *device) usable(r *root) error {
	if !r.public.ObjectAttributes.NoDA {
		return fmt.Errorf("key %#x is subject to the dictionary attack lockout (made without noda): other programs could lock it", uint32(r.handle))
	}
	trial, end, err := tpm2.PolicySession(d, tpm2.TPMAlgSHA256, nonceSize, tpm2.Trial())
	if err != nil {
		return fmt.Errorf("try key %#x: %w", uint32(r.handle), d.explain(err))
	}
	defer func() { _ = end() }() // as flush
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: trial.Handle(),
	}.Execute(d)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("key %#x has a password", uint32(r.handle))
	}
	if err != nil {
		return fmt.Errorf("try key %#x: %w", uint32(r.handle), d.explain(err))
	}
	return nil
}

// persistentRoot reads the key at handle; nil if there is none of the right kind.
func (d *device) persistentRoot(handle tpm2.TPMHandle) (*root, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(d)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key %#x: %w", uint32(handle), d.explain(err))
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read key %#x: %w", uint32(handle), err)
	}
	if !isStorageRoot(public) {
		return nil, nil // some other key, for example EVE's endorsement key
	}
	name, err := nameOf(public, rsp.Name)
	if err != nil {
		return nil, fmt.Errorf("read key %#x: %w", uint32(handle), err)
	}
	return &root{handle: handle, name: *name, public: *public}, nil
}

// isStorageRoot says whether the public area is that of an ECC P-256 or RSA-2048 storage
// key made inside a TPM: fixed to it, restricted to decryption, usable with its auth value.
func isStorageRoot(p *tpm2.TPMTPublic) bool {
	a := p.ObjectAttributes
	if p.NameAlg != tpm2.TPMAlgSHA256 ||
		!a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.UserWithAuth ||
		!a.Restricted || !a.Decrypt || a.SignEncrypt || a.STClear {
		return false
	}
	var sym tpm2.TPMTSymDefObject
	switch p.Type {
	case tpm2.TPMAlgECC:
		ecc, err := p.Parameters.ECCDetail()
		if err != nil || ecc.CurveID != tpm2.TPMECCNistP256 {
			return false
		}
		sym = ecc.Symmetric
	case tpm2.TPMAlgRSA:
		rsa, err := p.Parameters.RSADetail()
		if err != nil || rsa.KeyBits < 2048 {
			return false
		}
		sym = rsa.Symmetric
	default:
		return false
	}
	return isAESCFB(sym)
}

// isAESCFB says whether a storage key protects its children with AES in CFB mode, with at
// least 128 bits.
func isAESCFB(sym tpm2.TPMTSymDefObject) bool {
	if sym.Algorithm != tpm2.TPMAlgAES {
		return false
	}
	bits, err := sym.KeyBits.AES()
	if err != nil || *bits < 128 {
		return false
	}
	mode, err := sym.Mode.AES()
	return err == nil && *mode == tpm2.TPMAlgCFB
}

// templates are the TCG's of storage root keys that this TPM can make: ECC P-256, and
// RSA-2048 for TPMs that have no ECC (the first of TPM 2.0).
func (d *device) templates() []tpm2.TPMTPublic {
	if d.hasECC() {
		return []tpm2.TPMTPublic{tpm2.ECCSRKTemplate}
	}
	return []tpm2.TPMTPublic{tpm2.RSASRKTemplate}
}

// hasECC asks the TPM whether it has elliptic curves. One that does not tell has them.
func (d *device) hasECC() bool {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapAlgs, Property: uint32(tpm2.TPMAlgECC), PropertyCount: 1}.Execute(d)
	if err != nil {
		return true
	}
	algs, err := rsp.CapabilityData.Data.Algorithms()
	if err != nil {
		return true
	}
	// The list begins with the first algorithm that is not below the one asked for.
	return len(algs.AlgProperties) > 0 && algs.AlgProperties[0].Alg == tpm2.TPMAlgECC
}

func (d *device) primaryRoot(template tpm2.TPMTPublic) (*root, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(template),
	}.Execute(d)
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return nil, fmt.Errorf("%w: no storage key can be made without the password: %w", ErrOwnerPassword, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make the storage root key: %w", d.explain(err))
	}
	r := &root{handle: rsp.ObjectHandle, transient: true}
	public, err := rsp.OutPublic.Contents()
	if err != nil || !isStorageRoot(public) {
		d.releaseRoot(r)
		return nil, fmt.Errorf("TPM made a storage root key of the wrong kind: %w", errors.Join(err, ErrNoTPM))
	}
	name, err := nameOf(public, rsp.Name)
	if err != nil {
		d.releaseRoot(r)
		return nil, err
	}
	r.name, r.public = *name, *public
	return r, nil
}

// persistAdvice is the commands that make the standard key persistent with the owner's
// password, once. Without noda, or with another unique field, tpm2-tools make another
// key, which does not open layervault's slots.
const persistAdvice = "make the standard storage key persistent once, with tpm2-tools: " +
	`(printf '\040\0'; head -c 128 /dev/zero; printf '\040\0'; head -c 128 /dev/zero) >unique; ` +
	"tpm2_createprimary -C o -P PASSWORD -g sha256 -G ecc256:aes128cfb -u unique " +
	"-a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt' -c srk.ctx; " +
	"tpm2_evictcontrol -C o -P PASSWORD -c srk.ctx 0x81000001"

func (d *device) releaseRoot(r *root) {
	if r.transient {
		d.flush(r.handle)
	}
}

// flush frees a transient object. A failure only costs a slot of the TPM's memory,
// and the kernel's resource manager frees it at close.
func (d *device) flush(h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(d)
}

// authorised is the parent for commands: its auth value is empty, the session is
// salted with its public key and encrypts the first parameter both ways, so a probe
// on the bus sees no secret.
func (r *root) authorised() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize,
		tpm2.Salted(r.handle, r.public), tpm2.AESEncryption(128, tpm2.EncryptInOut))}
}

// confidential is a session beside another command's authorisation, which encrypts its
// first parameter.
func (r *root) confidential() tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Salted(r.handle, r.public), tpm2.AESEncryption(128, tpm2.EncryptIn))
}

// nonceSize is the length of session nonces in bytes; 16 is the least that the
// specification allows for SHA-256 sessions with AES-128.
const nonceSize = 16
