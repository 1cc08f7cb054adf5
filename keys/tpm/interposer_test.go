package tpm

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"layervault/keys"
	"layervault/keys/tpm/swtpmtest"
)

// evil sits between the processor and the TPM with a key of its own: it swaps the point of
// the storage key, keeps the key's name, and answers the sessions that are then salted for
// it.
type evil struct {
	t       *testing.T
	key     *ecdh.PrivateKey
	session []byte // key of the session that it answered
	caller  []byte // nonces of that session
	ours    []byte
	stolen  []byte // what was in Create, in the clear
}

const (
	ccCreatePrimary    = 0x131
	ccCreate           = 0x153
	ccStartAuthSession = 0x176
	evilSession        = 0x02000077
)

func (e *evil) alter(command []byte, next func([]byte) []byte) []byte {
	switch binary.BigEndian.Uint32(command[6:]) {
	case ccCreatePrimary:
		return e.swap(next(command))
	case ccStartAuthSession:
		return e.answerSession(command, next)
	case ccCreate:
		if e.session != nil {
			e.steal(command)
			return swtpmtest.Failure(uint32(tpm2.TPMRCFailure))
		}
	}
	return next(command)
}

// swap puts the evil key's point in place of the storage key's.
func (e *evil) swap(answer []byte) []byte {
	const at = 10 + 4 + 4 // header, handle, size of the parameters
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](answer[at:])
	if err != nil {
		e.t.Error(err)
		return answer
	}
	contents, err := public.Contents()
	if err != nil {
		e.t.Error(err)
		return answer
	}
	point, err := contents.Unique.ECC()
	if err != nil {
		e.t.Error(err)
		return answer
	}
	raw := e.key.PublicKey().Bytes() // 4, x, y
	for _, part := range []struct{ old, new []byte }{{point.X.Buffer, raw[1:33]}, {point.Y.Buffer, raw[33:]}} {
		i := bytes.Index(answer, part.old)
		if i < 0 || len(part.old) != 32 {
			e.t.Error("the point is not where it should be")
			return answer
		}
		copy(answer[i:], part.new)
	}
	return answer
}

// answerSession takes the salt, when it is made for the evil key.
func (e *evil) answerSession(command []byte, next func([]byte) []byte) []byte {
	in := bytes.NewBuffer(command[10+8:]) // header, both handles
	take := func() []byte { return in.Next(int(binary.BigEndian.Uint16(in.Next(2)))) }
	caller, secret := take(), take()
	if len(secret) == 0 {
		return next(command)
	}
	x := secret[2:34]
	y := secret[36:68]
	ephemeral, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		e.t.Error(err)
		return next(command)
	}
	z, err := e.key.ECDH(ephemeral)
	if err != nil {
		e.t.Error(err)
		return next(command)
	}
	salt := tpm2.KDFe(crypto.SHA256, z, "SECRET", x, e.key.PublicKey().Bytes()[1:33], 256)
	e.caller, e.ours = caller, bytes.Repeat([]byte{0x42}, nonceSize)
	e.session = tpm2.KDFa(crypto.SHA256, salt, "ATH", e.ours, e.caller, 256)
	body := binary.BigEndian.AppendUint32(nil, evilSession)
	body = binary.BigEndian.AppendUint16(body, nonceSize)
	body = append(body, e.ours...)
	out := binary.BigEndian.AppendUint32([]byte{0x80, 0x01}, uint32(10+len(body)))
	return append(append(out, 0, 0, 0, 0), body...)
}

// steal decrypts the first parameter of Create: the key that is to be sealed.
func (e *evil) steal(command []byte) {
	in := bytes.NewBuffer(command[10+4:]) // header, parent
	auth := bytes.NewBuffer(in.Next(int(binary.BigEndian.Uint32(in.Next(4)))))
	if h := binary.BigEndian.Uint32(auth.Next(4)); h != evilSession {
		e.t.Errorf("another session: %x", h)
		return
	}
	nonce := auth.Next(int(binary.BigEndian.Uint16(auth.Next(2))))
	secret := bytes.Clone(in.Next(int(binary.BigEndian.Uint16(in.Next(2)))))
	kdf := tpm2.KDFa(crypto.SHA256, e.session, "CFB", nonce, e.ours, 256)
	block, err := aes.NewCipher(kdf[:16])
	if err != nil {
		e.t.Error(err)
		return
	}
	//lint:ignore SA1019 TPM 2.0 encrypts parameters so
	cipher.NewCFBDecrypter(block, kdf[16:]).XORKeyStream(secret, secret) //nolint:staticcheck // TPM 2.0 encrypts parameters so
	e.stolen = secret
}

// An interposer that swaps the storage key's point and keeps its name is refused, at
// enrolment and at unlocking, before anything is salted for it. The control: who believes
// the name hands over the key that is sealed.
func TestInterposerIsRefused(t *testing.T) {
	chip := swtpmtest.Start(t).Boot()
	honest := Config{Path: chip.Socket, PCRs: mustPCRs(t, "7")}
	raw := wrap(t, honest)
	newEvil := func() (*evil, Config) {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		e := &evil{t: t, key: key}
		return e, Config{Path: chip.Interpose(e.alter), PCRs: honest.PCRs}
	}
	e, cfg := newEvil()
	if _, err := New(cfg).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrForgedAnswer) {
		t.Fatalf("enrolment: %v", err)
	}
	if _, err := New(cfg).Unwrap(t.Context(), binding, raw); !errors.Is(err, ErrForgedAnswer) {
		t.Fatalf("unlocking: %v", err)
	}
	if e.session != nil || e.stolen != nil {
		t.Fatal("a session was salted for the interposer")
	}
	expectOpen(t, honest, raw)

	believed := nameOf
	defer func() { nameOf = believed }()
	nameOf = func(_ *tpm2.TPMTPublic, told tpm2.TPM2BName) (*tpm2.TPM2BName, error) { return &told, nil }
	e, cfg = newEvil()
	if _, err := New(cfg).Wrap(t.Context(), binding, tierKey); err == nil {
		t.Fatal("control: sealed by a TPM that failed")
	}
	// TPMS_SENSITIVE_CREATE: an empty auth value, and 32 bytes of key.
	if len(e.stolen) != 2+2+keys.KeySize || !bytes.HasPrefix(e.stolen, []byte{0, 0, 0, keys.KeySize}) {
		t.Fatalf("control: the interposer reads %x", e.stolen)
	}
}
