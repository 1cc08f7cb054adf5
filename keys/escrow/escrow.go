// Package escrow exports a tier key, wrapped to an escrow holder's public key, and
// imports it back: the way a controller unlocks a device whose PCRs changed (EVE's
// "controller-key").
//
// Three steps: the device makes a [Parcel]; the holder opens it with the private key,
// away from the device, which gives a [Return]; the device checks the Return and
// unlocks.
package escrow

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"layervault/keys"
)

// version is of both formats.
const version = 1

// minRSABits is the minimum for a key that protects other keys for years.
const minRSABits = 2048

// Algorithm is how a parcel is wrapped.
type Algorithm string

// The algorithms. RSA parcels are plain OAEP without a label, so that openssl opens them
// without this program.
const (
	RSA  Algorithm = "rsa-oaep-sha256"
	HPKE Algorithm = "hpke-p256-sha256-aes256gcm" // RFC 9180: DHKEM(P-256), HKDF-SHA256, AES-256-GCM, base mode
)

// Parcel is a wrapped tier key. Only the holder of the private key can open it.
type Parcel struct {
	Version   int       `json:"version"`
	Ring      string    `json:"ring"`       // UUID of the key ring
	KeySHA256 string    `json:"key_sha256"` // hex; of 32 random bytes, so it tells nothing of them
	Algorithm Algorithm `json:"algorithm"`
	To        string    `json:"to"` // hex SHA-256 of the public key, PKIX DER
	Created   time.Time `json:"created"`
	Wrapped   []byte    `json:"wrapped"`
}

// Return is the tier key in the clear, on the way back to the device: protect it as a
// key.
type Return struct {
	Version   int    `json:"version"`
	Ring      string `json:"ring"`
	KeySHA256 string `json:"key_sha256"`
	Key       []byte `json:"key"`
}

// Wrap makes a parcel of ring's tier key for the holder of to: ECDSA P-256 or RSA of at
// least 2048 bits. Errors: keys.ErrBadEscrow, keys.ErrWrongKey when key is not the ring's.
func Wrap(ring *keys.Ring, key *keys.TierKey, to crypto.PublicKey) (*Parcel, error) {
	if err := ring.Proves(key); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(to)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
	}
	print := sha256.Sum256(der)
	p := &Parcel{Version: version, Ring: ring.ID(), To: hex.EncodeToString(print[:]), Created: time.Now().UTC().Truncate(time.Second)}
	err = key.Lend(func(raw []byte) (err error) {
		p.KeySHA256 = sum(raw)
		p.Wrapped, p.Algorithm, err = wrap(raw, to, p.info())
		return err
	})
	return p, err
}

func sum(key []byte) string {
	s := sha256.Sum256(key)
	return hex.EncodeToString(s[:])
}

// info binds an HPKE wrap to its place.
func (p *Parcel) info() []byte { return []byte("layervault/1/escrow/" + p.Ring + "/" + p.KeySHA256) }

func wrap(raw []byte, to crypto.PublicKey, info []byte) ([]byte, Algorithm, error) {
	switch k := to.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return nil, "", fmt.Errorf("%w: RSA key of %d bits, minimum is %d", keys.ErrBadEscrow, k.N.BitLen(), minRSABits)
		}
		out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k, raw, nil)
		return out, RSA, err
	case *ecdsa.PublicKey:
		point, err := k.ECDH()
		if err != nil || k.Params().BitSize != 256 {
			return nil, "", fmt.Errorf("%w: EC key on curve %s, want P-256", keys.ErrBadEscrow, k.Params().Name)
		}
		public, err := hpke.NewDHKEMPublicKey(point)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
		}
		out, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, raw)
		return out, HPKE, err
	}
	return nil, "", fmt.Errorf("%w: key type %T, want EC P-256 or RSA", keys.ErrBadEscrow, to)
}

// ParseParcel reads a parcel. Error: keys.ErrBadEscrow.
func ParseParcel(data []byte) (*Parcel, error) {
	var p Parcel
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
	}
	if p.Version != version || p.Ring == "" || len(p.KeySHA256) != 2*sha256.Size || len(p.Wrapped) == 0 {
		return nil, fmt.Errorf("%w: version %d, or incomplete", keys.ErrBadEscrow, p.Version)
	}
	return &p, nil
}

// Encode is the parcel as ParseParcel reads it.
func (p *Parcel) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(p, "", "  ")
	return append(data, '\n'), err
}

// Encode is the key as Unlock takes it. The caller wipes it.
func (r *Return) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	out := make([]byte, len(data)+1)
	copy(out, data)
	out[len(data)] = '\n'
	return out, nil
}

// Open unwraps a parcel. The caller wipes the key in the result. Errors:
// keys.ErrWrongKey for the private key of another, keys.ErrBadEscrow.
func (p *Parcel) Open(private crypto.Signer) (*Return, error) {
	raw, err := p.unwrap(private)
	if err != nil {
		return nil, err
	}
	if len(raw) != keys.KeySize || sum(raw) != p.KeySHA256 {
		clear(raw)
		return nil, fmt.Errorf("%w: content does not match the key's SHA-256 %s", keys.ErrBadEscrow, p.KeySHA256)
	}
	return &Return{Version: version, Ring: p.Ring, KeySHA256: p.KeySHA256, Key: raw}, nil
}

func (p *Parcel) unwrap(private crypto.Signer) ([]byte, error) {
	other := fmt.Errorf("%w: parcel is encrypted for key %s", keys.ErrWrongKey, p.To)
	switch k := private.(type) {
	case *rsa.PrivateKey:
		if p.Algorithm != RSA {
			return nil, other
		}
		raw, err := rsa.DecryptOAEP(sha256.New(), nil, k, p.Wrapped, nil)
		if err != nil {
			return nil, other
		}
		return raw, nil
	case *ecdsa.PrivateKey:
		if p.Algorithm != HPKE {
			return nil, other
		}
		scalar, err := k.ECDH()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
		}
		key, err := hpke.NewDHKEMPrivateKey(scalar)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
		}
		raw, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), p.info(), p.Wrapped)
		if err != nil {
			return nil, other
		}
		return raw, nil
	}
	return nil, fmt.Errorf("%w: private key type %T", keys.ErrBadEscrow, private)
}

// Unlock returns the tier key in data, a Return, and wipes data's key. It checks the
// hash, then that the key is the ring's. Errors: keys.ErrBadEscrow for damaged data,
// keys.ErrWrongKey for a key of another ring or from before a rotation.
func Unlock(ring *keys.Ring, data []byte) (*keys.TierKey, error) {
	var r Return
	defer func() { clear(r.Key) }()
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrBadEscrow, err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("%w: version %d", keys.ErrBadEscrow, r.Version)
	}
	if len(r.Key) != keys.KeySize || sum(r.Key) != r.KeySHA256 {
		return nil, fmt.Errorf("%w: SHA-256 of the key does not match", keys.ErrBadEscrow)
	}
	if r.Ring != ring.ID() {
		return nil, fmt.Errorf("%w: key is of ring %s, this ring is %s", keys.ErrWrongKey, r.Ring, ring.ID())
	}
	key, err := ring.Adopt(r.Key)
	if err != nil {
		return nil, fmt.Errorf("%w (perhaps rotated after the export; export again once the vault opens)", err)
	}
	return key, nil
}
