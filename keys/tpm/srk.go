package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// Persistent handles where a storage root key may be. The TCG provisioning guidance
// and systemd put it at 0x81000001; EVE has its endorsement key there and the storage
// root key at the next one. So nothing is taken for a storage key by its handle.
var srkHandles = []tpm2.TPMHandle{0x81000001, 0x81000002}

// root is the storage root key under which we seal.
type root struct {
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	transient bool // we made it and must flush it
}

// findRoot returns a storage root key: a persistent one whose public area checks out,
// else the standard ECC P-256 primary of the owner hierarchy, made anew (the same
// template gives the same key until the TPM is cleared). With want set, only the key
// of that name will do: keys.ErrOtherTPM.
func (d *device) findRoot(want []byte) (*root, error) {
	fits := func(name tpm2.TPM2BName) bool { return want == nil || bytes.Equal(name.Buffer, want) }
	for _, handle := range srkHandles {
		r, err := d.persistentRoot(handle)
		if err != nil {
			return nil, err
		}
		if r != nil && fits(r.name) {
			return r, nil
		}
	}
	r, err := d.primaryRoot()
	if err != nil {
		return nil, err
	}
	if !fits(r.name) {
		d.releaseRoot(r)
		return nil, fmt.Errorf("%w, or this TPM was cleared: the slot wants the storage key %x, this TPM has %x",
			keys.ErrOtherTPM, want, r.name.Buffer)
	}
	return r, nil
}

// persistentRoot reads the key at handle; nil if there is none that we may trust.
func (d *device) persistentRoot(handle tpm2.TPMHandle) (*root, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(d)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key at %#x: %w", uint32(handle), d.explain(err))
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read the key at %#x: %w", uint32(handle), err)
	}
	// The name is the hash of the public area: compute it, do not believe it.
	name, err := tpm2.ObjectName(public)
	if err != nil || !isStorageRoot(public) {
		return nil, nil // some other key, for example an RSA one or EVE's endorsement key
	}
	return &root{handle: handle, name: *name, public: *public}, nil
}

// isStorageRoot says whether the public area is that of an ECC P-256 storage key
// made inside a TPM: fixed to it, restricted to decryption, usable with its auth value.
func isStorageRoot(p *tpm2.TPMTPublic) bool {
	a := p.ObjectAttributes
	if p.Type != tpm2.TPMAlgECC || p.NameAlg != tpm2.TPMAlgSHA256 ||
		!a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.UserWithAuth ||
		!a.Restricted || !a.Decrypt || a.SignEncrypt || a.STClear {
		return false
	}
	ecc, err := p.Parameters.ECCDetail()
	if err != nil || ecc.CurveID != tpm2.TPMECCNistP256 || ecc.Symmetric.Algorithm != tpm2.TPMAlgAES {
		return false
	}
	bits, err := ecc.Symmetric.KeyBits.AES()
	if err != nil || *bits < 128 {
		return false
	}
	mode, err := ecc.Symmetric.Mode.AES()
	return err == nil && *mode == tpm2.TPMAlgCFB
}

func (d *device) primaryRoot() (*root, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(d)
	if err != nil {
		return nil, fmt.Errorf("make the storage root key (an owner password? then make it persistent at 0x81000001): %w", d.explain(err))
	}
	r := &root{handle: rsp.ObjectHandle, name: rsp.Name, transient: true}
	public, err := rsp.OutPublic.Contents()
	if err != nil || !isStorageRoot(public) {
		d.releaseRoot(r)
		return nil, fmt.Errorf("the TPM made a storage root key that is not of the asked kind: %w", errors.Join(err, keys.ErrNoTPM))
	}
	r.public = *public
	return r, nil
}

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
