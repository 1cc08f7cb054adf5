// Package pemkey reads public and private keys from PEM, as openssl writes them.
package pemkey

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrBadPEM: the text holds no key, or one that is encrypted or of an unknown kind.
var ErrBadPEM = errors.New("not a PEM key")

// Public reads "PUBLIC KEY" or "RSA PUBLIC KEY".
func Public(text []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%w: no PEM block", ErrBadPEM)
	}
	var key crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		err = fmt.Errorf("PEM block type %q, want PUBLIC KEY", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadPEM, err)
	}
	return key, nil
}

// Private reads "PRIVATE KEY", "EC PRIVATE KEY" or "RSA PRIVATE KEY", not encrypted.
func Private(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "EC PARAMETERS": // openssl ecparam -genkey puts it in front
			continue
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			err = fmt.Errorf("PEM block type %q, want PRIVATE KEY without a passphrase", block.Type)
		}
		clear(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadPEM, err)
		}
		private, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%w: key type %T", ErrBadPEM, key)
		}
		return private, nil
	}
	return nil, fmt.Errorf("%w: no PEM block", ErrBadPEM)
}
