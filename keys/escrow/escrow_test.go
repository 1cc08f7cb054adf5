package escrow

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"layervault/keys"
	"layervault/keys/versatile"
)

func vault(t *testing.T) (*keys.Ring, *keys.TierKey, []byte) {
	t.Helper()
	dir := t.TempDir()
	ring, key, err := keys.Create(t.Context(), filepath.Join(dir, "vault", keys.FileName), versatile.New(filepath.Join(dir, "key")), "", nil, keys.Format2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = key.Close() })
	var raw []byte
	if err := key.Lend(func(k []byte) error { raw = bytes.Clone(k); return nil }); err != nil {
		t.Fatal(err)
	}
	return ring, key, raw
}

func ec(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestThereAndBack(t *testing.T) {
	ring, key, raw := vault(t)
	for name, keeper := range map[string]crypto.Signer{"EC": ec(t, elliptic.P256()), "RSA": rsaKey(t, 2048)} {
		t.Run(name, func(t *testing.T) {
			made, err := Wrap(ring, key, keeper.Public())
			if err != nil {
				t.Fatal(err)
			}
			data := encode(t, made)
			if bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString(raw)[:20])) {
				t.Fatal("the key is in the parcel")
			}
			p, err := ParseParcel(data)
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range []crypto.Signer{ec(t, elliptic.P256()), rsaKey(t, 2048)} {
				if _, err := p.Open(other); !errors.Is(err, keys.ErrWrongKey) {
					t.Errorf("opened by another: %v", err)
				}
			}
			back, err := p.Open(keeper)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Unlock(ring, encode(t, back))
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if err := ring.Proves(got); err != nil {
				t.Fatal(err)
			}
			p.Wrapped[len(p.Wrapped)-1] ^= 1
			if _, err := p.Open(keeper); err == nil {
				t.Error("opened a damaged parcel")
			}
		})
	}
}

func TestRefusedKeepers(t *testing.T) {
	ring, key, _ := vault(t)
	for name, keeper := range map[string]crypto.Signer{"P-384": ec(t, elliptic.P384()), "RSA 1024": rsaKey(t, 1024)} {
		if _, err := Wrap(ring, key, keeper.Public()); !errors.Is(err, keys.ErrBadEscrow) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, other, _ := vault(t)
	if _, err := Wrap(ring, other, ec(t, elliptic.P256()).Public()); !errors.Is(err, keys.ErrWrongKey) {
		t.Errorf("the key of another ring: %v", err)
	}
}

func TestRefusedReturns(t *testing.T) {
	ring, _, raw := vault(t)
	good := Return{Version: 1, Ring: ring.ID(), KeySHA256: sum(raw), Key: raw}
	with := func(change func(*Return)) []byte {
		r := good
		r.Key = bytes.Clone(raw)
		change(&r)
		return encode(t, r)
	}
	flipped := func(r *Return) { r.Key[0] ^= 1 }
	for name, tc := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":         {nil, keys.ErrBadEscrow},
		"damaged key":     {with(flipped), keys.ErrBadEscrow},
		"short key":       {with(func(r *Return) { r.Key = r.Key[:31]; r.KeySHA256 = sum(r.Key) }), keys.ErrBadEscrow},
		"newer version":   {with(func(r *Return) { r.Version = 2 }), keys.ErrBadEscrow},
		"another ring":    {with(func(r *Return) { r.Ring = "x" }), keys.ErrWrongKey},
		"another key":     {with(func(r *Return) { flipped(r); r.KeySHA256 = sum(r.Key) }), keys.ErrWrongKey},
		"as it should be": {with(func(*Return) {}), nil},
	} {
		key, err := Unlock(ring, tc.data)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if key != nil {
			_ = key.Close()
		}
	}
	if _, err := ParseParcel([]byte(`{"version":2}`)); !errors.Is(err, keys.ErrBadEscrow) {
		t.Errorf("a newer parcel: %v", err)
	}
}
