package disk

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"layervault/persist"
)

var rules = Rules{Root: "/storage", Layout: persist.Layout{Root: "/storage/persist"}}

// The examples of Pantavisor's own documentation.
func TestSeedExamples(t *testing.T) {
	text, err := os.ReadFile("testdata/seed-device.json")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(text, rules)
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{Name: "dm-internal-secrets", Type: Versatile, Dir: "/storage/dm-crypt-files/dm-internal-secrets", Image: "versatile.img", Size: 2 << 20, Key: "versatile_key-internal_secrets", Format: "ext4"},
		{Name: "pvr-sdk-dm-versatile", Type: Versatile, Dir: "/storage/dm-crypt-files/pvr-sdk", Image: "versatile.img", Size: 8 << 20, Key: "versatile_key-pvr-sdk-dm-versatile", Format: "ext4"},
	}
	if fmt.Sprintf("%+v", f.Disks) != fmt.Sprintf("%+v", want) {
		t.Errorf("disks are %+v", f.Disks)
	}
	if got := fmt.Sprint(f.Volumes); got != "[{pv--devmeta permanent dm-internal-secrets} {pv--usrmeta permanent dm-internal-secrets}]" {
		t.Errorf("volumes are %s", got)
	}
	c, err := New(Config{Rules: rules}, f).Compose(Source{Text: []byte(`{"name":"pvr-sdk","persistence": {
        "/var/dmcrypt/volume": "permanent@pvr-sdk-dm-versatile"
    }}`)})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", c); got != "{Name:pvr-sdk Mounts:[{Volume:pvr-sdk.docker--var-dmcrypt-volume Target:/var/dmcrypt/volume Options:map[disk:pvr-sdk-dm-versatile persistence:permanent platform:pvr-sdk] Guessed:false Overlay:false}] Warnings:[] LeftOut:[]}" {
		t.Errorf("composed %s", got)
	}
}

// versatileType is the type of a disk that needs nothing but its key file.
const versatileType = `"type": "dm-crypt-versatile"`

// parseCases are disks, and what is made of them.
var parseCases = []struct {
	text string // the disks
	want string // disks as printed, or what error, fault or warning say
	// What Pantavisor refuses is bad: refused whole. What it passes over warns. What it
	// takes and we cannot use is faulty: known, and of no use.
	bad, warns, faulty bool
}{
	{text: `{"name":"d","type":"directory","path":"/storage/d"}`, want: "d directory /storage/d"},
	{text: `{"name":"d","type":"directory","path":"/storage/d/","default":"yes","options":"noatime"}`, want: "d directory /storage/d default noatime"},
	{text: `{"name":"d","type":"dm-crypt-caam","path":"/storage/f/file.img,8,key"}`, want: "d dm-crypt-caam nxp /storage/f/file.img 8388608 key"},
	{text: `{"name":"d","type":"dm-crypt-caam","mode":"mainline","path":"-v2 /storage/f/file.img,8,key"}`, want: "d dm-crypt-caam mainline /storage/f/file.img 8388608 key"},
	{text: `{"name":"d","type":"dm-crypt-dcp","mode":"mainline","migrate_keyblob":"yes","path":"/storage/f/file.img,8,key","aliases":["a","b"]}`, want: "d dm-crypt-dcp mainline /storage/f/file.img 8388608 key a b"},
	{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,16,vault"}`, want: "d luks /storage/persist/vault/disks/file.img 16777216 vault"},
	{text: `{"name":"d","type":"swap-disk","provision":"zram","anything":1}`, want: "d swap-disk"},

	{text: ``, want: "disks: list is empty", bad: true},
	{text: `7`, want: "disks[0]: expected a JSON object, got a number", bad: true},
	{text: `{}`, want: "disks[0]: key name is missing", bad: true},
	{text: `{"name":"","type":"directory","path":"/storage/d"}`, want: `disks[0]: key name: empty`, bad: true},
	{text: `{"name":"d/e","type":"directory","path":"/storage/d"}`, want: `bad name: disk "d/e"`, faulty: true},
	{text: `{"name":7,"type":"directory","path":"/storage/d"}`, want: `key name: expected a string, got a number`, bad: true},
	{text: `{"name":"d"}`, want: `disks[0] "d": key type is missing`, bad: true},
	{text: `{"name":"d","type":"floppy","path":"/storage/d"}`, want: `unknown type "floppy"; known types: [directory`, bad: true},
	{text: `{"name":"d","type":"directory"}`, want: `key path is missing`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"storage/d"}`, want: `is not absolute`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"/storage/../etc"}`, want: `must be "/etc"`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"/etc"}`, want: `outside /storage`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"/storagex/d"}`, want: `outside /storage`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","colour":"blue"}`, want: `key "colour": unknown, ignored; known keys: aliases, default`, warns: true},
	{text: `{"name":"d","name":"e","type":"directory","path":"/storage/d"}`, want: `duplicate key "name"`, bad: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","mode":"nxp"}`, want: `key "mode": ignored for type directory`, warns: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","default":"maybe"}`, want: `key default: "maybe" is neither yes nor no, read as no`, warns: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","default":true}`, want: `key default: read as no: expected a string`, warns: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":"a"}`, want: `key aliases: ignored: expected a JSON array, got a string`, warns: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":[""]}`, want: `key aliases: an empty alias`, bad: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","options":"usrjquota=x"}`, want: `key options: "usrjquota=x" ignored: bad image parameters: unknown mount option`, warns: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/,8,key"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,,key"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8,"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8,key,more"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,0,key"}`, want: `size "0"`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,-8,key"}`, want: `size "-8"`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8M,key"}`, want: `size "8M"`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,99999999999999999999,key"}`, want: `size "99999999999999999999"`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,16777217,key"}`, want: `1 to 16777216`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/..,8,key"}`, want: `not a usable file name`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/../file.img,8,key"}`, want: `parts`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/key.txt,8,key"}`, want: `are the same file`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"-v2 /storage/f/file.img,8,key"}`, want: `is not absolute`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8,key","format":"ntfs"}`, want: `"ntfs" is not one of [ext4 ext3]; a new image gets ext4`, warns: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/fi\u0000le.img,8,key"}`, want: `control character`, faulty: true},
	{text: `{"name":"d","type":"dm-crypt-caam","mode":"turbo","path":"/storage/f/file.img,8,key"}`, want: `neither mainline nor nxp`, faulty: true},
	{text: `{"name":"d","type":"dm-crypt-dcp","migrate_keyblob":"yes","path":"/storage/f/file.img,8,key"}`, want: `only for mode mainline`, warns: true},
	{text: `{"name":"d","type":"luks","path":"/storage/f/file.img,16,vault"}`, want: `must be in /storage/persist/vault/disks`, faulty: true},
	{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,16,secret"}`, want: `vault or unsealed-vault`, faulty: true},
	{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,8,vault"}`, want: `at least 16 MiB`, faulty: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d"},{"name":"d","type":"directory","path":"/storage/e"}`, want: `name "d" is already used by disk "d"`, bad: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":["e"]},{"name":"e","type":"directory","path":"/storage/e"}`, want: `alias "e" is already used by disk "e"`, bad: true},
	{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":["a"]},{"name":"e","type":"directory","path":"/storage/e","aliases":["a"]}`, want: `disk "e": alias "a" is already used by disk "d"`, bad: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/file.img,8,k1"},{"name":"e",` + versatileType + `,"path":"/storage/f/file.img,8,k2"}`, want: `is also used by disk "d"`, faulty: true},
	{text: `{"name":"d",` + versatileType + `,"path":"/storage/f/1.img,8,k"},{"name":"e",` + versatileType + `,"path":"/storage/f/2.img,8,k"}`, want: `is also used by disk "d"`, faulty: true},
}

func TestParse(t *testing.T) {
	for _, tt := range parseCases {
		f, err := Parse([]byte(`{"disks":[`+tt.text+`]}`), rules)
		if tt.bad {
			if !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tt.want) || len(f.Disks) > 0 {
				t.Errorf("%s: %+v, %v", tt.text, f, err)
			}
			continue
		}
		if err != nil || len(f.Disks) == 0 {
			t.Errorf("%s: %+v, %v", tt.text, f, err)
			continue
		}
		last := f.Disks[len(f.Disks)-1]
		switch warned := fmt.Sprint(f.Warnings); {
		case tt.faulty:
			err := New(Config{Rules: rules}, f).MountAt(t.Context(), last.Name, t.TempDir())
			if !errors.Is(err, ErrBadFile) || !strings.Contains(fmt.Sprint(err), tt.want) || !strings.Contains(warned, tt.want) {
				t.Errorf("%s: mount: %v, warnings %s", tt.text, err, warned)
			}
		case last.Fault != nil:
			t.Errorf("%s: %v", tt.text, last.Fault)
		case tt.warns:
			if len(f.Warnings) != 1 || !strings.Contains(warned, tt.want) {
				t.Errorf("%s: warnings %s", tt.text, warned)
			}
		case len(f.Warnings) > 0 || short(last) != tt.want:
			t.Errorf("%s: %q, warnings %s", tt.text, short(last), warned)
		}
	}
}

// short prints what of a disk was said.
func short(d Disk) string {
	words := []string{d.Name, string(d.Type), string(d.Mode)}
	if d.IsCrypt() {
		words = append(words, d.ImagePath(), fmt.Sprint(d.Size), d.Key)
	} else {
		words = append(words, d.Dir)
	}
	if d.Default {
		words = append(words, "default")
	}
	words = append(words, d.Options)
	return strings.Join(strings.Fields(strings.Join(append(words, d.Aliases...), " ")), " ")
}

func TestParseVolumes(t *testing.T) {
	const disks = `"disks":[{"name":"d","aliases":["alias"],"type":"directory","path":"/storage/d"},{"name":"e","type":"directory","path":"/storage/e","default":"yes"}]`
	for _, tt := range []struct {
		text, want string
		// bad: the file is refused; left: the volume is left out; warns: it is taken.
		bad, left, warns bool
	}{
		{text: `{"v":{"persistence":"boot","disk":"alias"}}`, want: "[{v boot d}]"},
		{text: `{"v":{"persistence":"revision"}}`, want: "[{v revision e}]"},
		{text: `{"v":{"disk":"d"}}`, want: "[]"},
		{text: `{"v":{}}`, want: "[]"},
		{text: `{"v":{"persistence":"forever"}}`, want: `key persistence: bad volume option`, left: true},
		{text: `{"v":{"persistence":"boot@d"}}`, want: `must not name a disk`, left: true},
		{text: `{"v":{"persistence":"boot","disk":"x"}}`, want: `volumes "v": left out: key disk: no such disk: "x"; known disks: [alias d e]`, left: true},
		{text: `{"v":{"persistence":"boot","size":1}}`, want: `volumes "v": key "size": unknown`, warns: true},
		{text: `{"../v":{"persistence":"boot"}}`, want: `bad name`, left: true},
		{text: `{"v":{"persistence":"boot"},"v":{"persistence":"boot"}}`, want: `duplicate key`, bad: true},
		{text: `[]`, want: `volumes: expected a JSON object, got an array`, bad: true},
	} {
		// Volumes may stand before the disks they name.
		f, err := Parse([]byte(`{"groups":[],"volumes":`+tt.text+`,"network":{},`+disks+`}`), rules)
		got, warned := fmt.Sprint(f.Volumes), fmt.Sprint(f.Warnings)
		switch {
		case tt.bad:
			if !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %s, %v", tt.text, got, err)
			}
		case tt.left || tt.warns:
			if err != nil || tt.left != (len(f.Volumes) == 0) || len(f.Warnings) != 1 || !strings.Contains(warned, tt.want) {
				t.Errorf("%s: %s, %v, warnings %s", tt.text, got, err, warned)
			}
		case err != nil || got != tt.want || len(f.Warnings) > 0:
			t.Errorf("%s: %s, %v, warnings %s", tt.text, got, err, warned)
		}
	}
}

func TestParseFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "not JSON",
		"{":                              "not JSON",
		`{"disks":[]} {}`:                "trailing data",
		`null`:                           "got null",
		`{"groups":{}}`:                  "groups: expected a JSON array",
		`{"disks":{}}`:                   "disks: expected a JSON array, got an object",
		`[]`:                             "disks: list is empty",
		`{"groups":[]}{`:                 "trailing data",
		strings.Repeat(" ", 1<<20) + "1": "longer than",
	} {
		if _, err := Parse([]byte(text), rules); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		`{"disk":[]}`:    `key "disk": unknown, ignored; known keys: groups, disks`,
		`{"network":[]}`: "network: expected a JSON object",
		`{"disks_v3":[{"name":"d","type":"raid"}]}`: `disks_v3[0] "d": key type: unknown type "raid"; known types: [directory dm-crypt-versatile dm-crypt-caam dm-crypt-dcp luks], and Pantavisor's own [swap-disk volume-disk dual]; the disk is skipped`,
	} {
		f, err := Parse([]byte(text), rules)
		if err != nil || len(f.Disks) > 0 || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0].String(), want) {
			t.Errorf("%s: %v, warnings %v", text, err, f.Warnings)
		}
	}
	// Every fault is told at once, each with its entry.
	_, err := Parse([]byte(`{"disks":[{"name":"a","type":"x"},{"name":"b","type":"directory","path":"y"}],"volumes":{"v":{"persistence":"z"}}}`), rules)
	var entry *EntryError
	if !errors.As(err, &entry) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`disks[0] "a": `, `disks[1] "b": `} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if f, err := Parse([]byte(`[{"name":"d","type":"directory","path":"/storage/d"}]`), rules); err != nil || len(f.Disks) != 1 {
		t.Errorf("disks.json: %+v, %v", f, err)
	}
	if f, err := Parse([]byte(`{"disks":[{"name":"d","type":"directory","path":"/storage/d"}],"disks_v2":[{"name":"e","type":"directory","path":"/storage/e"}]}`), rules); err != nil || len(f.Disks) != 2 {
		t.Errorf("two lists: %+v, %v", f, err)
	}
}

// TestDiskKeys: the keys that are known are those of all types, and of Pantavisor's own.
func TestDiskKeys(t *testing.T) {
	want := "aliases, default, disks, format, format_options, init_order, migrate_keyblob, mode, mount_options, mount_target, name, options, path, provision, provision_options, type, uuid"
	if got := strings.Join(diskKeys(), ", "); got != want {
		t.Errorf("known are %s", got)
	}
	const entry = `[{"name":"d","path":"/storage/f/i,1,k","type":"TYPE","mode":"mainline","format":"ext3","migrate_keyblob":"yes","uuid":"u","extra":1}]`
	for typ, passed := range map[Type]string{
		Directory: "mode format migrate_keyblob uuid", Versatile: "migrate_keyblob uuid", CAAM: "migrate_keyblob uuid", DCP: "uuid",
		LUKS: "mode migrate_keyblob uuid",
	} {
		f, err := Parse([]byte(strings.Replace(entry, "TYPE", string(typ), 1)), rules)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"mode", "format", "migrate_keyblob", "uuid", "extra"} {
			text := "key " + strconv.Quote(key) + ": ignored"
			if key == "extra" {
				text = `key "extra": unknown`
			}
			has := slices.ContainsFunc(f.Warnings, func(w Warning) bool { return strings.HasPrefix(w.Text, text) })
			if want := key == "extra" || slices.Contains(strings.Fields(passed), key); has != want {
				t.Errorf("%s: key %s ignored: %t, want %t: %v", typ, key, has, want, f.Warnings)
			}
		}
		if d := f.Disks[0]; d.Fault == nil && (d.Mode == Mainline) != (typ == CAAM || typ == DCP) || d.MigrateKey != (typ == DCP) {
			t.Errorf("%s: %+v", typ, d)
		}
	}
}
