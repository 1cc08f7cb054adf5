package volume

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// frozen reads a fixture.
func frozen(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/records", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sample2 is sample in version 2.
func sample2() Record {
	r := sample()
	r.Version, r.Local = 2, 3
	return r
}

// The records of version 2; those in files are authenticated by testKeys.
func TestFrozenRecords2(t *testing.T) {
	want := sample2()
	text := frozen(t, "v2-token.json")
	if got, err := decodeToken(text); err != nil || got != want {
		t.Errorf("token: %+v, %v", got, err)
	}
	if again, err := want.encodeToken(); err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
		t.Errorf("token is written as %s, %v", again, err)
	}
	for name, o := range map[string]Options{
		"v2-folder.json":  {Tier: persist.Clear, Persistence: Permanent},
		"v2-on-disk.json": {Disk: "secrets", Persistence: Boot, Platform: "web"},
	} {
		text := frozen(t, name)
		got, err := decodeFile(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := got.authentic(testKeys{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want.Options = o
		sealed, err := want.seal(testKeys{})
		if err != nil || got != sealed {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if again, err := sealed.encodeFile(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%s is written as %s, %v", name, again, err)
		}
	}
}

func TestFrozenList(t *testing.T) {
	l, err := decodeList(frozen(t, "v1-list.json"), persist.Vault)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.check(testKeys{}); err != nil {
		t.Errorf("list: %v", err)
	}
	if again, err := l.seal(testKeys{}); err != nil || !bytes.Equal(again, frozen(t, "v1-list.json")) {
		t.Errorf("list is written as %s, %v", again, err)
	}
	if e := l.find("vault", sample2().ID()); e == nil || !e.Pending || e.Next != "unsealed-vault/0a1b2c3d-0000-4000-8000-000000000001#8" || e.Options != sample().Options {
		t.Errorf("list has %+v", e)
	}
}

func TestFrozenRevisions(t *testing.T) {
	r, err := decodeRevisions(frozen(t, "v2-revision.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.authentic(testKeys{}); err != nil || r.Current != "r2" || len(r.Known) != 2 {
		t.Errorf("revisions: %+v, %v", r, err)
	}
	if r, err = decodeRevisions(frozen(t, "v1-revision.json")); err != nil || r.Current != "r2" || r.MAC != "" {
		t.Errorf("revisions of version 1: %+v, %v", r, err)
	}
}

func TestFrozenMounts(t *testing.T) {
	for _, name := range []string{"v1-mounts.json", "v2-mounts.json"} {
		u, err := decodeUses(frozen(t, name), "6ad1a0d6-4c1c-4ac5-8a15-9c1d6a8d7e10")
		if err != nil || u["c1"].Dir != "0a1b2c3d-0000-4000-8000-000000000001#7" || u.at(u["c1"].Dir) != map[string]int{"v1-mounts.json": 1, "v2-mounts.json": 3}[name] {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
		if u, err = decodeUses(frozen(t, name), "another boot"); err != nil || len(u) > 0 {
			t.Errorf("%s in another boot: %+v, %v", name, u, err)
		}
	}
}

// testKeys authenticates as anyone could.
type testKeys struct{}

func (testKeys) MAC(what string, data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("test "+what))
	_, _ = mac.Write(data)
	return mac.Sum(nil), nil
}

func FuzzList(f *testing.F) {
	text, err := os.ReadFile("testdata/records/v1-list.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"tier":"vault","volumes":[],"mac":"` + strings.Repeat("0f", 32) + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := decodeList(text, persist.Vault)
		if err != nil {
			return
		}
		for _, e := range l.Volumes {
			if !filepath.IsLocal(e.id().String()) || keyTier(e.Options) != persist.Vault {
				t.Errorf("an entry %+v", e)
			}
		}
		again, err := l.seal(testKeys{})
		if err != nil {
			t.Fatal(err)
		}
		if next, err := decodeList(again, persist.Vault); err != nil || next.check(testKeys{}) != nil {
			t.Errorf("written as %s: %v", again, err)
		}
	})
}

func FuzzUses(f *testing.F) {
	for _, name := range []string{"v1-mounts.json", "v2-mounts.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := decodeUses(text, "6ad1a0d6-4c1c-4ac5-8a15-9c1d6a8d7e10")
		if err != nil {
			return
		}
		for id, one := range u {
			if filepath.Base(one.Dir) != one.Dir || one.Count < 1 {
				t.Errorf("%s: %+v", id, one)
			}
		}
	})
}

// What the judgement of a disk's volumes must hold whatever lies there: no name is that of
// two usable volumes with different claims, and nothing that is not listed takes the place of
// what is.
func TestJudge(t *testing.T) {
	id := "0a1b2c3d-0000-4000-8000-000000000001"
	volume := func(tier persist.Tier, generation int64, damage error) Volume {
		return Volume{Record: Record{Version: 2, Name: "db", UUID: id, Generation: generation, Options: Options{Tier: tier, Persistence: Permanent}}, Damage: damage}
	}
	entries := func(vs ...Volume) *list {
		l := &list{Tier: persist.Vault}
		for _, v := range vs {
			l.Volumes = append(l.Volumes, entryOf(v.Record))
		}
		return l
	}
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		all  []Volume
		list *list
		want string // the usable one: tier and generation
	}{
		"one":                       {[]Volume{volume("vault", 0, nil)}, nil, "vault 0"},
		"a later generation":        {[]Volume{volume("vault", 0, nil), volume("vault", 1, nil)}, nil, "vault 1"},
		"a later one is damaged":    {[]Volume{volume("vault", 0, nil), volume("vault", 1, broken)}, nil, ""},
		"a later one in the clear":  {[]Volume{volume("vault", 0, nil), volume("clear", 7, nil)}, nil, "vault 0"},
		"listed in the clear":       {[]Volume{volume("vault", 0, nil), volume("clear", 7, nil)}, entries(volume("vault", 0, nil), volume("clear", 7, nil)), "clear 7"},
		"only the clear is listed":  {[]Volume{volume("vault", 0, nil), volume("clear", 7, nil)}, entries(volume("clear", 7, nil)), "clear 7"},
		"only the image is listed":  {[]Volume{volume("vault", 0, nil), volume("clear", 7, nil)}, entries(volume("vault", 0, nil)), "vault 0"},
		"garbage of a later number": {[]Volume{volume("vault", 0, nil), volume("vault", 9, broken)}, entries(volume("vault", 0, nil)), "vault 0"},
		"the listed one is gone":    {[]Volume{volume("clear", 7, nil)}, entries(volume("vault", 0, nil)), ""},
		"the listed one is damaged": {[]Volume{volume("vault", 0, nil), volume("vault", 1, broken)}, entries(volume("vault", 0, nil), volume("vault", 1, nil)), ""},
	} {
		got := ""
		all := judge(tt.all, persist.Layout{Root: "/none"}, map[persist.Tier]*list{persist.Vault: tt.list})
		for _, v := range all {
			if v.Damage == nil && !v.Superseded {
				got += fmt.Sprint(v.Options.Tier, " ", v.Generation)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q: %+v", name, got, tt.want, all)
		}
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
		{`"generation":7`, `"generation":7,"local":1`},
		{`"generation":7`, `"generation":7,"mac":"` + strings.Repeat("0f", 32) + `"`},
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

// The other files of the store are read as strictly as records.
func TestStrictFiles(t *testing.T) {
	version := regexp.MustCompile(`"version": ?[12]`)
	files := map[string]func([]byte) error{
		"v1-list.json":     func(text []byte) error { _, err := decodeList(text, persist.Vault); return err },
		"v1-revision.json": func(text []byte) error { _, err := decodeRevisions(text); return err },
		"v2-revision.json": func(text []byte) error { _, err := decodeRevisions(text); return err },
		"v2-mounts.json":   func(text []byte) error { _, err := decodeUses(text, "boot"); return err },
	}
	for name, decode := range files {
		good := string(frozen(t, name))
		if err := decode([]byte(good)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		object := strings.TrimSpace(good)
		for what, text := range map[string]string{
			"trailing data":     good + "{}",
			"a trailing word":   good + "x",
			"an unknown field":  strings.TrimSuffix(object, "}") + `,"colour":"blue"}`,
			"a later version":   version.ReplaceAllString(good, `"version":91`),
			"a file cut short":  object[:len(object)-1],
			"more than allowed": good + strings.Repeat(" ", 16<<20),
		} {
			err := decode([]byte(text))
			if err == nil {
				t.Errorf("%s with %s is accepted", name, what)
			}
			if name != "v2-mounts.json" && !errors.Is(err, ErrDamaged) {
				t.Errorf("%s with %s: %v", name, what, err)
			}
		}
	}
}

// FuzzRecord wants what is read to lie inside its disk, and to be written back to the same meaning.
func FuzzRecord(f *testing.F) {
	for _, name := range []string{"v1-token.json", "v1-folder.json", "v1-on-disk.json", "v2-token.json", "v2-folder.json", "v2-on-disk.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	ways := []struct {
		decode func([]byte) (Record, error)
		encode func(Record) ([]byte, error)
	}{
		{decodeToken, func(r Record) ([]byte, error) { return r.encodeToken() }},
		{decodeFile, Record.encodeFile},
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, way := range ways {
			r, err := way.decode(text)
			if err != nil {
				continue
			}
			written, err := way.encode(r)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := way.decode(written); err != nil || again != r {
				t.Errorf("%+v, written as %s, is %+v (%v)", r, written, again, err)
			}
			p, err := placeOf(r, "r1")
			if err != nil || !filepath.IsLocal(p.dir) || p.marker != "" && !filepath.IsLocal(p.marker) || !filepath.IsLocal(mountDir(r.ID(), p)) {
				t.Errorf("%+v lies at %+v (%v)", r, p, err)
			}
		}
	})
}

// FuzzRevisions wants what is read to be written back to the same meaning.
func FuzzRevisions(f *testing.F) {
	f.Add([]byte(`{"version":1,"current":"a","known":[{"name":"a","set":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"version":1,"known":[]}`))
	for _, name := range []string{"v1-revision.json", "v2-revision.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/records", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decodeRevisions(text)
		if err == nil && r.Current != "" && ValidateName("revision", r.Current) != nil {
			t.Errorf("current revision %q", r.Current)
		}
		if err != nil {
			return
		}
		written, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRevisions(written)
		if d := cmp.Diff(r, again); err != nil || d != "" {
			t.Errorf("written as %s: %v %s", written, err, d)
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
