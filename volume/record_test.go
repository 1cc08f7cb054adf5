package volume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"layervault/crypt/luks2"
	"layervault/persist"
)

// sample is what the frozen records say.
func sample() Record {
	return Record{
		Version: 1, Name: "db", UUID: "0a1b2c3d-0000-4000-8000-000000000001", Generation: 7,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
		Options: Options{Size: 32 << 20, Tier: persist.Vault, Persistence: Revision, Revision: "r1", Cipher: "aes-cbc-essiv:sha256", Sector: 512, MountOpts: "noatime"},
	}
}

// The formats on disk are frozen: what was written once stays readable.
func TestFrozenRecords(t *testing.T) {
	want := sample()
	text, err := os.ReadFile("testdata/records/v1-token.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeToken(text)
	if err != nil || got != want {
		t.Errorf("token: %+v, %v", got, err)
	}
	if again, err := want.encodeToken(); err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
		t.Errorf("token is written as %s, %v", again, err)
	}
	text, err = os.ReadFile("testdata/records/v1-folder.json")
	if err != nil {
		t.Fatal(err)
	}
	want.Options = Options{Tier: persist.Clear, Persistence: Permanent}
	got, err = decodeFile(text)
	if err != nil || got != want {
		t.Errorf("folder: %+v, %v", got, err)
	}
	if again, err := want.encodeFile(); err != nil || !bytes.Equal(again, text) {
		t.Errorf("folder is written as %s, %v", again, err)
	}
	text, err = os.ReadFile("testdata/records/v1-on-disk.json")
	if err != nil {
		t.Fatal(err)
	}
	want.Options = Options{Disk: "secrets", Persistence: Boot, Platform: "web"}
	if got, err = decodeFile(text); err != nil || got != want {
		t.Errorf("on a disk: %+v, %v", got, err)
	}
}

func TestBadRecords(t *testing.T) {
	good, err := os.ReadFile("testdata/records/v1-token.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range [][2]string{
		{`"version":1`, `"version":3`},
		{`"version":1`, `"version":0`},
		{`"name":"db"`, `"name":"../db"`},
		{`"name":"db"`, `"name":"db","colour":"blue"`},
		{`"generation":7`, `"generation":-7`},
		{`"generation":7`, `"generation":"7"`},
		{`0a1b2c3d`, `../etc/x`},
		{`"tier":"vault"`, `"tier":"attic"`},
		{`"tier":"vault"`, `"tier":"clear"`},
		{`"persistence":"revision"`, `"persistence":"forever"`},
		{`"revision":"r1"`, `"revision":"../r1"`},
		{`"size":33554432`, `"size":-1`},
		{`"size":33554432`, `"disk":"d"`},
		{`}}`, `}} {}`},
	} {
		text := strings.Replace(string(good), tt[0], tt[1], 1)
		if text == string(good) {
			t.Fatalf("%s is not in the record", tt[0])
		}
		if r, err := decodeToken([]byte(text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %+v, %v", tt[1], r, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, name := range []string{"v1-token.json", "v1-folder.json", "v1-on-disk.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, decode := range []func([]byte) (Record, error){decodeToken, decodeFile} {
			r, err := decode(text)
			if err != nil {
				continue
			}
			p, err := placeOf(r, "r1")
			if err != nil || !filepath.IsLocal(p.dir) || p.marker != "" && !filepath.IsLocal(p.marker) || !filepath.IsLocal(mountDir(r.ID(), p)) {
				t.Errorf("%+v lies at %+v (%v)", r, p, err)
			}
		}
	})
}

func FuzzRevisions(f *testing.F) {
	f.Add([]byte(`{"version":1,"current":"a","known":[{"name":"a","set":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"version":1,"known":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decodeRevisions(text)
		if err == nil && r.Current != "" && ValidateName("revision", r.Current) != nil {
			t.Errorf("current revision %q", r.Current)
		}
	})
}

// A LUKS2 header holds the largest record, and stock tools take its token.
func TestLargestToken(t *testing.T) {
	r := sample()
	r.Name, r.Options.Revision = strings.Repeat("n", maxName), strings.Repeat("r", maxName)
	r.Generation, r.Options.Size = 1<<63-1, MaxSize
	r.Options.MountOpts = strings.Repeat("noatime,", 64)
	text, err := r.encodeToken()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, key, err := luks2.Format(f, luks2.Params{}, luks2.RandomKeyKDF(), []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	if _, err := h.SetToken(f, -1, text); err != nil {
		t.Fatal(err)
	}
	// An exchange of keys leaves it as it is.
	if err := luks2.Exchange(t.Context(), f, luks2.Owner{}, []byte("old"), []byte("new"), luks2.RandomKeyKDF()); err != nil {
		t.Fatal(err)
	}
	if got, err := readImageRecord(f.Name()); err != nil || got != r {
		t.Errorf("read back %+v, %v", got, err)
	}
}
