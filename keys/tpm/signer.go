package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"layervault/keys/pemkey"
)

// RSA keys of a policy: below 2048 bits they are broken too soon, above 4096 no TPM
// that we know verifies; and no TPM of the PC client profile takes another exponent.
const (
	minRSABits  = 2048
	maxRSABits  = 4096
	rsaExponent = 65537
)

// signer is who may approve other PCR values for a slot (TPM2_PolicyAuthorize).
type signer struct {
	key    crypto.PublicKey
	public tpm2.TPMTPublic
	name   tpm2.TPM2BName
	print  hexBytes // fingerprint as systemd-measure writes it ("pkfp")
}

// newSigner checks that a TPM can verify with key: ECDSA on P-256, or RSA. The public
// area made of it is part of every policy that names the key, so it must stay as it
// is: TestSignerNames has its frozen names.
func newSigner(key crypto.PublicKey) (*signer, error) {
	s := &signer{key: key}
	public := tpm2.TPMTPublic{
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true},
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 0x04, X, Y
		if err != nil || k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%w: ECDSA key on curve %s; TPMs verify P-256", ErrBadPolicyKey, k.Params().Name)
		}
		s.print = fingerprint(point)
		public.Type = tpm2.TPMAlgECC
		public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		})
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		if bits < minRSABits || bits > maxRSABits || bits%1024 != 0 || k.E != rsaExponent {
			return nil, fmt.Errorf("%w: RSA key of %d bits, exponent %d; TPMs verify 2048 bits (some 3072 and 4096), exponent %d",
				ErrBadPolicyKey, bits, k.E, rsaExponent)
		}
		s.print = fingerprint(x509.MarshalPKCS1PublicKey(k))
		public.Type = tpm2.TPMAlgRSA
		public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMIRSAKeyBits(bits)})
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	default:
		return nil, fmt.Errorf("%w: %T; must be ECDSA P-256 or RSA", ErrBadPolicyKey, key)
	}
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, fmt.Errorf("name of the policy key: %w", err)
	}
	s.public, s.name = public, *name
	return s, nil
}

func fingerprint(der []byte) hexBytes {
	sum := sha256.Sum256(der)
	return sum[:]
}

// ParsePublicKey reads the public key of a policy's signer from PEM. Error:
// ErrBadPolicyKey.
func ParsePublicKey(text []byte) (crypto.PublicKey, error) {
	key, err := pemkey.Public(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicyKey, err)
	}
	_, err = newSigner(key)
	return key, err
}

// ParsePrivateKey reads the private key of a policy's signer from PEM, not encrypted.
// Error: ErrBadPolicyKey.
func ParsePrivateKey(text []byte) (crypto.Signer, error) {
	private, err := pemkey.Private(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPolicyKey, err)
	}
	_, err = newSigner(private.Public())
	return private, err
}

// verify checks a signature over SHA-256 of message, without the TPM.
func (s *signer) verify(message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch k := s.key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}

// forTPM turns a signature from its usual form (DER of r and s, or PKCS #1 v1.5) into
// the TPM's.
func (s *signer) forTPM(signature []byte) (tpm2.TPMTSignature, error) {
	if _, ok := s.key.(*rsa.PublicKey); ok {
		return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: signature}})}, nil
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &rs); err != nil {
		return tpm2.TPMTSignature{}, fmt.Errorf("%w: %w", ErrBadPolicy, err)
	}
	return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: rs.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: rs.S.FillBytes(make([]byte, 32))},
		})}, nil
}
