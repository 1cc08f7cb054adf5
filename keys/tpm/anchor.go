package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
)

// AnchorKind is the name in the ring of an Anchor of this package.
const AnchorKind = "tpm-nv"

// The NV indexes of anchors, two for each tier; see keys.Anchor. They lie in the range of
// the owner (TCG registry of reserved handles, 0x01800000 to 0x01BFFFFF): "LV", the tier,
// the place.
const anchorBase = 0x018c5600

// Anchor records the newest write of a tier's ring in NV indexes of the TPM. It
// implements keys.Anchor. An index
//
//   - is written and read with its own auth value, which follows from the tier key;
//   - is read by the owner too, so that a ring that is missing can be named;
//   - is not written by the owner, but can be deleted by the owner (TPM2_NV_UndefineSpace):
//     an index that cannot is made by the firmware only (TPMA_NV_POLICY_DELETE). Made
//     again, it has another auth value;
//   - does not count towards the TPM's lockout, nor is it shut by that (TPMA_NV_NO_DA):
//     its auth value has 192 bits.
type Anchor struct {
	path string
	base tpm2.TPMHandle
}

// NewAnchor makes the anchor of a tier in the TPM at path ("" = DefaultPath): of the vault,
// or of the tier that opens before attestation. It does not touch the TPM.
func NewAnchor(path string, unmeasured bool) *Anchor {
	if path == "" {
		path = DefaultPath
	}
	a := &Anchor{path: path, base: anchorBase}
	if unmeasured {
		a.base += 0x10
	}
	return a
}

// Kind implements keys.Anchor.
func (a *Anchor) Kind() string { return AnchorKind }

// anchorAttributes are what an index must have; TPMA_NV_WRITTEN comes with its content.
var anchorAttributes = tpm2.TPMANV{
	AuthWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary,
}

// Places implements keys.Anchor.
func (a *Anchor) Places(ctx context.Context) ([]keys.AnchorPlace, error) {
	d, err := open(ctx, a.path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []keys.AnchorPlace
	for _, h := range []tpm2.TPMHandle{a.base, a.base + 1} {
		place := keys.AnchorPlace{Place: uint32(h)}
		ix, err := d.nvIndex(h)
		if err != nil {
			return nil, err
		}
		if ix != nil {
			place.Exists, place.Empty = true, !ix.public.Attributes.Written
			place.Data = d.nvReadAsOwner(ix)
		}
		out = append(out, place)
	}
	return out, nil
}

// Read implements keys.Anchor.
func (a *Anchor) Read(ctx context.Context, place uint32, auth []byte) (data []byte, err error) {
	err = a.with(ctx, place, func(d *device, ix *nvIndex) error {
		if ix.size != keys.AnchorSize {
			return fmt.Errorf("%w: NV index %#x has %d bytes", keys.ErrAnchorLost, place, ix.size)
		}
		self := ix.authorised(auth)
		data, err = d.nvRead(ix, self)
		if errors.Is(err, tpm2.TPMRCNVUninitialized) {
			return nil // the auth value was checked before
		}
		return err
	})
	return data, err
}

// Write implements keys.Anchor.
func (a *Anchor) Write(ctx context.Context, place uint32, auth, data []byte) error {
	return a.with(ctx, place, func(d *device, ix *nvIndex) error {
		return d.nvWrite(ix, auth, data)
	})
}

// with runs fn on an existing index, and derives from its error whether the index is
// lost.
func (a *Anchor) with(ctx context.Context, place uint32, fn func(*device, *nvIndex) error) error {
	d, err := open(ctx, a.path)
	if err != nil {
		return err
	}
	defer d.Close()
	ix, err := d.nvIndex(tpm2.TPMHandle(place))
	if err != nil {
		return err
	}
	if ix == nil {
		return fmt.Errorf("%w: NV index %#x is missing; the TPM was cleared, the owner deleted the index, or the ring is older than a rotation", keys.ErrAnchorLost, place)
	}
	switch err := fn(d, ix); {
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCNVAuthorization):
		return fmt.Errorf("%w: NV index %#x was not made with this tier key", keys.ErrAnchorLost, place)
	case err != nil:
		return fmt.Errorf("NV index %#x: %w", place, d.explain(err))
	}
	return nil
}

// Make implements keys.Anchor.
func (a *Anchor) Make(ctx context.Context, place uint32, auth, data []byte) error {
	d, err := open(ctx, a.path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.nvUndefine(tpm2.TPMHandle(place)); err != nil {
		return err
	}
	srk, err := d.chooseRoot()
	if err != nil {
		return err
	}
	defer d.releaseRoot(srk)
	public := tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(place), NameAlg: tpm2.TPMAlgSHA256,
		Attributes: anchorAttributes, DataSize: uint16(len(data)),
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		Auth:       tpm2.TPM2BAuth{Buffer: auth},
		PublicInfo: tpm2.New2B(public),
	}.Execute(d, srk.confidential())
	if err != nil {
		return anchorFault("make", place, d.explain(err))
	}
	ix, err := d.nvIndex(tpm2.TPMHandle(place))
	if err != nil {
		return err
	}
	if ix == nil {
		return fmt.Errorf("%w: NV index %#x is missing right after its creation", keys.ErrAnchor, place)
	}
	if err := d.nvWrite(ix, auth, data); err != nil {
		return anchorFault("write", place, d.explain(err))
	}
	return nil
}

// anchorFault explains why the TPM rejects a command authorised by the owner.
func anchorFault(verb string, place uint32, err error) error {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w: cannot %s NV index %#x: owner password is set: %w",
			keys.ErrAnchor, verb, place, err)
	}
	return fmt.Errorf("%w: cannot %s NV index %#x: %w", keys.ErrAnchor, verb, place, err)
}

// Remove implements keys.Anchor.
func (a *Anchor) Remove(ctx context.Context, place uint32) error {
	d, err := open(ctx, a.path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.nvUndefine(tpm2.TPMHandle(place))
}

// nvIndex is the data of an index that commands need.
type nvIndex struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	size   uint16
	public tpm2.TPMSNVPublic
}

// nvIndex reads the public area of an index; nil when there is none.
func (d *device) nvIndex(h tpm2.TPMHandle) (*nvIndex, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: h}.Execute(d)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", uint32(h), d.explain(err))
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", uint32(h), err)
	}
	if public.NVIndex != h {
		return nil, fmt.Errorf("%w: request for NV index %#x answered with %#x", ErrNoTPM, uint32(h), uint32(public.NVIndex))
	}
	name, err := tpm2.NVName(public) // computed, not believed
	if err != nil {
		return nil, fmt.Errorf("name of NV index %#x: %w", uint32(h), err)
	}
	return &nvIndex{handle: h, name: *name, size: public.DataSize, public: *public}, nil
}

// authorised uses the index's own auth value in an HMAC session: the answer is proved by
// it too. The value has 192 bits of the tier key's, so the session needs no salt.
func (ix *nvIndex) authorised(auth []byte) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: ix.handle, Name: ix.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Auth(auth))}
}

func (d *device) nvRead(ix *nvIndex, by tpm2.AuthHandle) ([]byte, error) {
	rsp, err := tpm2.NVRead{
		AuthHandle: by,
		NVIndex:    tpm2.NamedHandle{Handle: ix.handle, Name: ix.name},
		Size:       ix.size,
	}.Execute(d)
	if err != nil {
		return nil, err
	}
	return rsp.Data.Buffer, nil
}

// nvReadAsOwner reads without authentication; nil if the owner may not read, or has a
// password.
func (d *device) nvReadAsOwner(ix *nvIndex) []byte {
	if !ix.public.Attributes.OwnerRead || ix.size != keys.AnchorSize {
		return nil
	}
	data, err := d.nvRead(ix, tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)})
	if err != nil {
		return nil
	}
	return data
}

func (d *device) nvWrite(ix *nvIndex, auth, data []byte) error {
	_, err := tpm2.NVWrite{
		AuthHandle: ix.authorised(auth),
		NVIndex:    tpm2.NamedHandle{Handle: ix.handle, Name: ix.name},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data},
	}.Execute(d)
	return err
}

// nvUndefine deletes an index; one that does not exist is no error.
func (d *device) nvUndefine(h tpm2.TPMHandle) error {
	ix, err := d.nvIndex(h)
	if ix == nil || err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: h, Name: ix.name},
	}.Execute(d)
	if err != nil {
		return anchorFault("delete", uint32(h), d.explain(err))
	}
	return nil
}
