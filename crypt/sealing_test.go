package crypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/crypt/luks2"
	"layervault/crypt/verity"
)

// With verity=require no image is made with sectors that take no hash tree, and the error says
// whose image it is. By default it is made without.
func TestVeritySmallSectors(t *testing.T) {
	m := Making{Params: Params{SectorSize: 512}, FileSystem: Ext4}
	im := Image{Owner: Owner{Kind: KindLayer, ID: "base"}}
	for _, v := range []Verity{"", VerityPrefer} {
		im.Verity = v
		if p, err := im.plan(m); err != nil || p.hashed {
			t.Errorf("verity=%q: %+v, %v", v, p, err)
		}
	}
	im.Verity = VerityRequire
	_, err := im.plan(m)
	var refused *UnverifiedError
	if !errors.As(err, &refused) || refused.Owner != im.Owner || !errors.Is(err, ErrSmallSectors) || !strings.Contains(err.Error(), "layer base") {
		t.Errorf("verity=require: %v", err)
	}
}

// A file system without attributes is told from one with.
func TestCheckXattrs(t *testing.T) {
	if err := checkXattrs("/proc"); !errors.Is(err, ErrNoXattrs) {
		t.Errorf("/proc: %v", err)
	}
	if err := checkXattrs(t.TempDir()); err != nil {
		t.Errorf("a folder: %v", err)
	}
}

// contents are what testdata/content-v1.json has, line by line.
func contents(t *testing.T) []content {
	t.Helper()
	tree := &verity.Tree{DataBlocks: 300, HashStart: 300}
	for i := range tree.Salt {
		tree.Salt[i], tree.Root[i] = byte(i), byte(255-i)
	}
	return []content{{fs: EROFS, tree: tree}, {fs: Ext4, tree: tree}, {fs: EROFS}}
}

// headerWith is a header of format 2 with a token more.
func headerWith(t *testing.T, token string) *luks2.Header {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h, key, err := luks2.Format(f, luks2.Params{Tokens: []json.RawMessage{json.RawMessage(token)}, Owner: &Owner{Kind: KindLayer, ID: "x"}}, luks2.RandomKeyKDF(), []byte("passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	return h
}

// The tokens of version 1 are written and read as ever.
func TestContentToken(t *testing.T) {
	frozen, err := os.ReadFile("testdata/content-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(frozen), []byte("\n"))
	want := contents(t)
	if len(lines) != len(want) {
		t.Fatalf("%d tokens, want %d", len(lines), len(want))
	}
	for i, c := range want {
		if got, err := c.token(); err != nil || !bytes.Equal(got, lines[i]) {
			t.Errorf("token is\n%s (%v), want\n%s", got, err, lines[i])
		}
		got, err := contentOf(headerWith(t, string(lines[i])))
		if err != nil || got.fs != c.fs || (got.tree == nil) != (c.tree == nil) || got.tree != nil && *got.tree != *c.tree {
			t.Errorf("%s is read as %+v, %v", lines[i], got, err)
		}
	}
	if token, err := (content{fs: Ext4}).token(); token != nil || err != nil {
		t.Errorf("an ext4 without a tree has the token %s, %v", token, err)
	}
}

// A token of a newer program, or of none, is refused and not passed over.
func TestContentTokenRefused(t *testing.T) {
	for name, token := range map[string]string{
		"newer version":  `{"type":"layervault-content","keyslots":[],"version":2,"filesystem":"erofs"}`,
		"no version":     `{"type":"layervault-content","keyslots":[],"filesystem":"erofs"}`,
		"other system":   `{"type":"layervault-content","keyslots":[],"version":1,"filesystem":"xfs"}`,
		"no system":      `{"type":"layervault-content","keyslots":[],"version":1}`,
		"tree of 1 byte": `{"type":"layervault-content","keyslots":[],"version":1,"filesystem":"erofs","tree":"AA=="}`,
	} {
		if c, err := contentOf(headerWith(t, token)); err == nil {
			t.Errorf("%s: read as %+v", name, c)
		}
	}
}
