package convert

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"layervault/convert/evetest"
)

const testUUID = "11111111-1111-1111-1111-111111111111" // as a message it could be read to its end

// sample is a ConfigResponse with an application, a volume and a content tree, and fields that
// nothing here knows.
func sample() []byte {
	app := evetest.Message(4,
		evetest.Message(1, evetest.Message(1, []byte(testUUID)), evetest.Message(2, []byte("1"))),
		evetest.Message(2, []byte("name")),
		evetest.Message(4, evetest.Message(1, evetest.Message(3, []byte(strings.Repeat("ab", 32))), evetest.Number(4, 3)), evetest.Number(5, 1)),
		evetest.Message(4, evetest.Message(1, evetest.Number(4, 8))),
		evetest.Message(10, evetest.Number(2, 7), evetest.Message(4, []byte("now"))),
		evetest.Message(16, evetest.Message(1, []byte(testUUID)), evetest.Number(2, 4)),
		evetest.Message(16, evetest.Message(1, []byte(strings.ToUpper(testUUID[:35]+"a")))),
		protowire.AppendFixed64(protowire.AppendTag(nil, 99, protowire.Fixed64Type), 1),
	)
	config := evetest.Message(1,
		evetest.Message(1, evetest.Message(1, []byte(testUUID)), evetest.Message(2, []byte("3"))),
		app,
		evetest.Message(20, evetest.Message(1, []byte("tree")), evetest.Message(5, []byte(strings.Repeat("CD", 32)))),
		evetest.Message(21, evetest.Message(1, []byte(testUUID[:35]+"a")), evetest.Message(2, evetest.Number(1, 2), evetest.Message(2, []byte("TREE"))), evetest.Number(5, 1<<20), evetest.Number(8, 1)),
	)
	return append(config, evetest.Message(2, []byte("hash"))...)
}

func inEnvelope(payload []byte) []byte {
	return append(evetest.Message(1, evetest.Message(1, payload)), evetest.Message(5, []byte("certificate"))...)
}

func TestDecodeConfig(t *testing.T) {
	for name, data := range map[string][]byte{"alone": sample(), "in an envelope": inEnvelope(sample())} {
		d, err := decodeConfig(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d.complete()
		a := d.app(strings.ToUpper(testUUID))
		if a == nil || a.purge != 7 || a.purgeOf(0) != 7 || a.purgeOf(1) != 0 || len(a.drives) != 2 || len(a.refs) != 2 {
			t.Fatalf("%s: %+v", name, a)
		}
		if a.drives[0].sha != strings.Repeat("ab", 32) || a.drives[0].format != 3 || a.refs[0].generation != 4 {
			t.Errorf("%s: %+v", name, a)
		}
		if a.drives[1].sha != strings.Repeat("CD", 32) {
			t.Errorf("%s: the digest of the content tree is not used: %+v", name, a.drives[1])
		}
		if v := d.volume(testUUID[:35] + "A"); v == nil || !v.clear || v.maxSize != 1<<20 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A file that was cut short anywhere is refused, or what is left of it says nothing: it never
// has a part of the applications.
func TestDecodeConfigCut(t *testing.T) {
	for _, whole := range [][]byte{sample(), inEnvelope(sample())} {
		for n := range whole {
			d, err := decodeConfig(whole[:n])
			if err == nil && len(d.apps) != 1 {
				t.Fatalf("cut to %d of %d bytes: %+v", n, len(whole), d)
			}
			if err != nil && !errors.Is(err, ErrBadConfig) {
				t.Fatalf("cut to %d: %v", n, err)
			}
		}
	}
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("not a protobuf"), "zeros": make([]byte, 100), "too long": make([]byte, maxConfig+1),
		"too many apps":   evetest.Message(1, slices.Repeat(evetest.Message(4), maxApps+1)),
		"too many drives": evetest.Message(1, evetest.Message(4, slices.Repeat(evetest.Message(4), maxDrives+1))),
		"no config":       evetest.Message(2, []byte("hash")),
	} {
		if _, err := decodeConfig(data); !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConfig wants no panic, and memory bounded by the size of the file.
func FuzzConfig(f *testing.F) {
	f.Add(sample())
	f.Add(inEnvelope(sample()))
	f.Add(sample()[:40])
	f.Add(evetest.Message(1, evetest.Message(4, evetest.Message(1, evetest.Message(1, []byte(testUUID))))))
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d, err := decodeConfig(data)
		runtime.ReadMemStats(&after)
		// An empty application is two bytes in the file, and 72 in memory; a list grows twofold.
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(len(data))*256+1<<20 {
			t.Errorf("%d bytes for a file of %d", used, len(data))
		}
		if err != nil {
			if !errors.Is(err, ErrBadConfig) {
				t.Errorf("%v", err)
			}
			return
		}
		d.complete()
		if len(d.apps) > maxApps || len(d.volumes) > maxVolumes || len(d.trees) > maxVolumes {
			t.Errorf("%d applications, %d volumes", len(d.apps), len(d.volumes))
		}
		for _, a := range d.apps {
			if len(a.uuid) > maxText || len(a.drives) > maxDrives || len(a.refs) > maxDrives {
				t.Errorf("%+v", a)
			}
		}
	})
}

func TestParseOld(t *testing.T) {
	sha, app := strings.Repeat("aB", 32), "2CF8F72C-6200-4c94-a8f9-3625fbce7b94"
	for name, want := range map[string]oldName{
		sha + "-" + app + ".qcow2":          {purge: 0, format: "qcow2"},
		sha + "-" + app + "#12.RAW":         {purge: 12, format: "raw"},
		sha + "-" + app + "#4294967295.iso": {purge: 4294967295, format: "iso"},
		sha + "-" + app + "#4294967296.raw": {},
		sha + "-" + app + "#.raw":           {},
		sha + "-" + app + ".container":      {},
		sha + "-" + app + ".exe":            {},
		sha + "-" + app:                     {},
		sha + "-" + app + ".raw.tmp":        {},
		sha + "-" + app + "#1.raw\n":        {},
		"../" + sha + "-" + app + ".raw":    {},
		sha[:62] + "-" + app + ".raw":       {},
		sha + "-" + app[:35] + ".raw":       {},
		"":                                  {},
	} {
		got, ok := parseOld(name, false)
		if ok {
			want.sha, want.app = strings.ToLower(sha), strings.ToLower(app)
		}
		if got != want || ok != (want.format != "") {
			t.Errorf("%q: %+v, %t", name, got, ok)
		}
	}
	if got, ok := parseOld(sha+"-"+app+"#2", true); !ok || got.purge != 2 || got.format != container {
		t.Errorf("folder: %+v", got)
	}
}

// The digest of a content depends on its bytes, their places and the size, and not on how they
// are handed over, or on where the holes are.
func TestContentHash(t *testing.T) {
	data := make([]byte, 5*block+100)
	for i := block - 10; i < 2*block+7; i++ {
		data[i] = byte(i*7 + 1)
	}
	data[5*block+50] = 1
	sum := func(steps ...int) string {
		h, at := newContentHash(true), 0
		for i := 0; at < len(data); i++ {
			n := min(steps[i%len(steps)], len(data)-at)
			if part := data[at : at+n]; i%3 != 0 || strings.Trim(string(part), "\x00") != "" { // else a hole
				h.add(int64(at), part)
			}
			at += n
		}
		content, plain := h.end(int64(len(data)))
		return content + plain
	}
	want := sum(len(data))
	for _, steps := range [][]int{{1 << 20}, {block}, {4096}, {1000, 17}, {block + 1}, {3 * block, 5}} {
		if got := sum(steps...); got != want {
			t.Errorf("in steps of %v: %s, want %s", steps, got, want)
		}
	}
	seen := map[string]bool{want: true}
	for _, change := range []func(){
		func() { data[3*block] = 1 }, func() { data = append(data, 0) }, func() { data[5*block+50], data[5*block+51] = 0, 1 },
	} {
		change()
		if got := sum(4096); seen[got] {
			t.Error("a change does not show")
		} else {
			seen[got] = true
		}
	}
}

func TestMark(t *testing.T) {
	m := mark{size: 1, mtime: -5, ctime: 7, inode: 1 << 63, sum: strings.Repeat("0f", 32)}
	if got, ok := parseMark(m.String()); !ok || got != m {
		t.Errorf("%+v, %t", got, ok)
	}
	for _, bad := range []string{"", "2 1 2 3 4 " + m.sum, "1 x 2 3 4 " + m.sum, "1 1 2 3 -4 " + m.sum, "1 1 2 3 4 short", m.String() + " "} {
		if _, ok := parseMark(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The frozen journal of version 1 stays readable, and what no journal says is refused.
func TestJournal(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "journal-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	j, err := decodeJournal(data)
	if err != nil {
		t.Fatal(err)
	}
	got := map[phase]int{}
	for _, r := range j.Items {
		got[r.Phase]++
	}
	for _, p := range phases {
		if got[p] != 1 {
			t.Errorf("%d items %s", got[p], p)
		}
	}
	for _, change := range [][2]string{
		{`"version": 1`, `"version": 2`},
		{`"version": 1`, `"version": 0`},
		{`"begun"`, `"Unknown"`},
		{`"img/`, `"img/../`},
		{`"img/`, `"certs/`},
		{`"runx/pods/prepared/`, `"runx/pods/`},
		{`"kind": "vm"`, `"kind": "other"`},
		{`"name": "containerd"`, `"name": "../containerd"`},
		{`"name": "containerd"`, `"name": ".."`},
		{`"area": "case"`, `"area": "elsewhere"`},
		{`"area": "case"`, `"area": "volumes"`},
		{`"dir": "verified"`, `"dir": ".."`},
		{`"volume": "`, `"volume": "../`},
		{`"phase": "gone"`, `"phase": "lost"`},
		{`"state": "`, `"state": "x`},
		{`"digest": "`, `"digest": "x`},
		{"\n}\n", "\n}{}\n"},
	} {
		text := strings.Replace(string(data), change[0], change[1], 1)
		if text == string(data) {
			t.Fatalf("nothing to change: %s", change[0])
		}
		if _, err := decodeJournal([]byte(text)); !errors.Is(err, ErrBadJournal) {
			t.Errorf("%s: %v", change[1], err)
		}
	}
	if _, err := decodeJournal([]byte("{")); !errors.Is(err, ErrBadJournal) {
		t.Error(err)
	}
}
