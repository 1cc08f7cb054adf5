package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/keys"
	"layervault/vault/vaulttest"
)

// TestNoKeyInFilesOrOutput takes a vault through the verbs that handle its key, and looks
// for the key, known to the test, in each file and in all output: as it is, in hex and in
// base64. What a keeper takes out of a parcel holds it, which shows that the search finds.
func TestNoKeyInFilesOrOutput(t *testing.T) {
	dir := vaulttest.Dir(t)
	vaulttest.New(t, dir, 2)
	var output bytes.Buffer
	command := func(args ...string) {
		t.Helper()
		args = append(args, "--persist", dir)
		if got := run(t.Context(), args, streams{strings.NewReader(""), &output, &output}, versatileChosen); got != 0 {
			t.Fatalf("%v: status %d: %s", args, got, output.String())
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	private, public := keyPair(t, dir)
	words := in("words")
	if err := os.WriteFile(words, []byte("correct horse battery staple"), 0o600); err != nil {
		t.Fatal(err)
	}
	var known [][]byte
	remember := func() {
		t.Helper()
		key, _ := vaulttest.Open(t, dir)
		if err := key.Lend(func(raw []byte) error { known = append(known, bytes.Clone(raw)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	remember()
	none := []string{"--tpm", "/nonexistent"}
	command(append([]string{"key", "enroll", "recovery", "--passphrase=" + words}, none...)...)
	command(append([]string{"key", "rotate", "--carry", words}, none...)...)
	remember()
	command("key", "backup", in("backup"))
	command(append([]string{"key", "escrow", "export", "--to", public, in("parcel")}, none...)...)
	command(append([]string{"key", "recover", "--recovery-key-file", words}, none...)...)
	command(append([]string{"key", "list", "--json"}, none...)...)
	command("image", "list")
	found := func() (where []string) {
		t.Helper()
		look := func(what string, data []byte) {
			for _, key := range known {
				for _, form := range [][]byte{key, key[:16], hexOf(key), base64Of(key)} {
					if bytes.Contains(bytes.ToLower(data), bytes.ToLower(form)) {
						where = append(where, what)
						return
					}
				}
			}
		}
		look("the output", output.Bytes())
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			look(path, data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return where
	}
	if where := found(); len(where) != 0 {
		t.Fatalf("a tier key is in %v", where)
	}
	command("key", "escrow", "open", "--key", private, "--out", in("returned"), in("parcel"))
	if where := found(); len(where) != 1 || where[0] != in("returned") {
		t.Fatalf("the search found %v", where)
	}
	if len(known) != 2 || bytes.Equal(known[0], known[1]) || len(known[0]) != keys.KeySize {
		t.Fatal("the test knows no keys")
	}
}

// keyPair makes the PEM files of an EC key.
func keyPair(t *testing.T, dir string) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	for name, block := range map[string]*pem.Block{private: {Type: "PRIVATE KEY", Bytes: privateDER}, public: {Type: "PUBLIC KEY", Bytes: publicDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return private, public
}

func hexOf(key []byte) []byte { return []byte(hex.EncodeToString(key)) }

// base64Of leaves out the last characters, which depend on what follows the key.
func base64Of(key []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(key))[:40] }
