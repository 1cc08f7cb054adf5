package pemkey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
)

func TestKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	must := func(der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	type equal interface{ Equal(crypto.PublicKey) bool }
	for name, tc := range map[string]struct {
		text []byte
		want crypto.PublicKey
	}{
		"PKIX, EC":    {block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(ec.Public()))), ec.Public()},
		"PKIX, RSA":   {block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(r.Public()))), r.Public()},
		"PKCS 1":      {block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&r.PublicKey)), r.Public()},
		"nothing":     {nil, nil},
		"no PEM":      {[]byte("x"), nil},
		"certificate": {block("CERTIFICATE", []byte{1}), nil},
		"broken":      {block("PUBLIC KEY", []byte{1}), nil},
	} {
		got, err := Public(tc.text)
		if tc.want == nil {
			if !errors.Is(err, ErrBadPEM) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || !got.(equal).Equal(tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tc := range map[string]struct {
		text []byte
		want crypto.PublicKey
	}{
		"PKCS 8": {block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ec))), ec.Public()},
		"SEC 1, parameters in front": {append(block("EC PARAMETERS", []byte{6}),
			block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(ec)))...), ec.Public()},
		"PKCS 1":     {block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r)), r.Public()},
		"nothing":    {nil, nil},
		"encrypted":  {block("ENCRYPTED PRIVATE KEY", []byte{1}), nil},
		"public":     {block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(ec.Public()))), nil},
		"broken":     {block("PRIVATE KEY", []byte{1}), nil},
		"parameters": {block("EC PARAMETERS", []byte{6}), nil},
	} {
		got, err := Private(tc.text)
		if tc.want == nil {
			if !errors.Is(err, ErrBadPEM) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || !got.Public().(equal).Equal(tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
