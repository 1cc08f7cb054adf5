package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/persist"
	"layervault/volume"
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
	c, err := New(Config{Rules: rules}, f).Compose([]byte(`{"name":"pvr-sdk","persistence": {
        "/var/dmcrypt/volume": "permanent@pvr-sdk-dm-versatile"
    }}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", c); got != "{Name:pvr-sdk Mounts:[{Volume:pvr-sdk.docker--var-dmcrypt-volume Target:/var/dmcrypt/volume Options:map[disk:pvr-sdk-dm-versatile persistence:permanent platform:pvr-sdk] Guessed:false}]}" {
		t.Errorf("composed %s", got)
	}
}

func TestParse(t *testing.T) {
	const v = `"type": "dm-crypt-versatile"`
	for _, tt := range []struct {
		text string // the disks
		want string // disks as printed, or what the error says
		bad  bool
	}{
		{text: `{"name":"d","type":"directory","path":"/storage/d"}`, want: "d directory /storage/d"},
		{text: `{"name":"d","type":"directory","path":"/storage/d/","default":"yes","options":"noatime"}`, want: "d directory /storage/d default noatime"},
		{text: `{"name":"d","type":"dm-crypt-caam","path":"/storage/f/file.img,8,key"}`, want: "d dm-crypt-caam nxp /storage/f/file.img 8388608 key"},
		{text: `{"name":"d","type":"dm-crypt-caam","mode":"mainline","path":"-v2 /storage/f/file.img,8,key"}`, want: "d dm-crypt-caam mainline /storage/f/file.img 8388608 key"},
		{text: `{"name":"d","type":"dm-crypt-dcp","mode":"mainline","migrate_keyblob":"yes","path":"/storage/f/file.img,8,key","aliases":["a","b"]}`, want: "d dm-crypt-dcp mainline /storage/f/file.img 8388608 key a b"},
		{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,16,vault"}`, want: "d luks /storage/persist/vault/disks/file.img 16777216 vault"},
		{text: `{"name":"d","type":"swap-disk","provision":"zram","anything":1}`, want: "d swap-disk"},

		{text: ``, want: "disks: it is empty", bad: true},
		{text: `7`, want: "disks[0]: it is no JSON object but a number", bad: true},
		{text: `{}`, want: "disks[0]: key name is missing", bad: true},
		{text: `{"name":"","type":"directory","path":"/storage/d"}`, want: `key name: bad name`, bad: true},
		{text: `{"name":"d/e","type":"directory","path":"/storage/d"}`, want: `key name: bad name`, bad: true},
		{text: `{"name":7,"type":"directory","path":"/storage/d"}`, want: `key name: it is no string but a number`, bad: true},
		{text: `{"name":"d"}`, want: `disks[0] "d": key type is missing`, bad: true},
		{text: `{"name":"d","type":"floppy","path":"/storage/d"}`, want: `unknown type "floppy"; known are [directory`, bad: true},
		{text: `{"name":"d","type":"directory"}`, want: `disks[0] "d": key path is missing`, bad: true},
		{text: `{"name":"d","type":"directory","path":"storage/d"}`, want: `is not absolute`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/../etc"}`, want: `write "/etc"`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/etc"}`, want: `outside /storage`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storagex/d"}`, want: `outside /storage`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","colour":"blue"}`, want: `key "colour": unknown; known are aliases, default`, bad: true},
		{text: `{"name":"d","name":"e","type":"directory","path":"/storage/d"}`, want: `key "name" is there twice`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","mode":"nxp"}`, want: `key "mode": a disk of type directory has none`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","default":"maybe"}`, want: `key default: "maybe" is neither yes nor no`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","default":true}`, want: `key default: it is no string`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":"a"}`, want: `key aliases: it is no JSON array but a string`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":[""]}`, want: `key aliases: bad name`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","options":"usrjquota=x"}`, want: `key options: bad image parameters: unknown mount option`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/,8,key"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,,key"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8,"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8,key,more"}`, want: `is not FOLDER/IMAGE,SIZE,KEY`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,0,key"}`, want: `size "0"`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,-8,key"}`, want: `size "-8"`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8M,key"}`, want: `size "8M"`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,99999999999999999999,key"}`, want: `size "99999999999999999999"`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,16777217,key"}`, want: `1 to 16777216`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/..,8,key"}`, want: `no usable file name`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/../file.img,8,key"}`, want: `parts`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/key.txt,8,key"}`, want: `would be one file`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"-v2 /storage/f/file.img,8,key"}`, want: `is not absolute`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8,key","format":"ntfs"}`, want: `neither ext4 nor ext3`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/fi\u0000le.img,8,key"}`, want: `control character`, bad: true},
		{text: `{"name":"d","type":"dm-crypt-caam","mode":"turbo","path":"/storage/f/file.img,8,key"}`, want: `neither mainline nor nxp`, bad: true},
		{text: `{"name":"d","type":"dm-crypt-dcp","migrate_keyblob":"yes","path":"/storage/f/file.img,8,key"}`, want: `it wants mode mainline`, bad: true},
		{text: `{"name":"d","type":"luks","path":"/storage/f/file.img,16,vault"}`, want: `lies in /storage/persist/vault/disks`, bad: true},
		{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,16,secret"}`, want: `vault or unsealed-vault`, bad: true},
		{text: `{"name":"d","type":"luks","path":"/storage/persist/vault/disks/file.img,8,vault"}`, want: `at least 16 MiB`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d"},{"name":"d","type":"directory","path":"/storage/e"}`, want: `name "d" is disk "d"'s already`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":["e"]},{"name":"e","type":"directory","path":"/storage/e"}`, want: `alias "e" is disk "e"'s already`, bad: true},
		{text: `{"name":"d","type":"directory","path":"/storage/d","aliases":["a"]},{"name":"e","type":"directory","path":"/storage/e","aliases":["a"]}`, want: `disk "e": alias "a" is disk "d"'s already`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/file.img,8,k1"},{"name":"e",` + v + `,"path":"/storage/f/file.img,8,k2"}`, want: `in common with disk "d"`, bad: true},
		{text: `{"name":"d",` + v + `,"path":"/storage/f/1.img,8,k"},{"name":"e",` + v + `,"path":"/storage/f/2.img,8,k"}`, want: `in common with disk "d"`, bad: true},
	} {
		f, err := Parse([]byte(`{"disks":[`+tt.text+`]}`), rules)
		if tt.bad {
			if !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tt.want) || len(f.Disks) > 0 {
				t.Errorf("%s: %+v, %v", tt.text, f, err)
			}
			continue
		}
		if err != nil || len(f.Disks) != 1 || short(f.Disks[0]) != tt.want {
			t.Errorf("%s: %q, %v", tt.text, short(f.Disks[0]), err)
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
		bad        bool
	}{
		{text: `{"v":{"persistence":"boot","disk":"alias"}}`, want: "[{v boot d}]"},
		{text: `{"v":{"persistence":"revision"}}`, want: "[{v revision e}]"},
		{text: `{"v":{"disk":"d"}}`, want: "[]"},
		{text: `{"v":{}}`, want: "[]"},
		{text: `{"v":{"persistence":"forever"}}`, want: `volumes "v": key persistence`, bad: true},
		{text: `{"v":{"persistence":"boot@d"}}`, want: `goes into the key disk`, bad: true},
		{text: `{"v":{"persistence":"boot","disk":"x"}}`, want: `volumes "v": key disk: there is no disk "x"`, bad: true},
		{text: `{"v":{"persistence":"boot","size":1}}`, want: `key "size": unknown`, bad: true},
		{text: `{"../v":{"persistence":"boot"}}`, want: `bad name`, bad: true},
		{text: `{"v":{"persistence":"boot"},"v":{"persistence":"boot"}}`, want: `there twice`, bad: true},
		{text: `[]`, want: `volumes: it is no JSON object but an array`, bad: true},
	} {
		// Volumes may stand before the disks they name.
		f, err := Parse([]byte(`{"groups":[],"volumes":`+tt.text+`,"network":{},`+disks+`}`), rules)
		if tt.bad && (!errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tt.want)) || !tt.bad && (err != nil || fmt.Sprint(f.Volumes) != tt.want) {
			t.Errorf("%s: %v, %v", tt.text, f.Volumes, err)
		}
	}
}

func TestParseFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "it is not JSON",
		"{":                              "it is not JSON",
		`{"disks":[]} {}`:                "something follows",
		`null`:                           "but null",
		`{"disk":[]}`:                    `key "disk": unknown; known are groups, disks`,
		`{"groups":{}}`:                  "groups: it is no JSON array",
		`{"network":[]}`:                 "network: it is no JSON object",
		`{"disks":{}}`:                   "disks: it is no JSON array but an object",
		`[]`:                             "disks: it is empty",
		`{"groups":[]}{`:                 "something follows",
		strings.Repeat(" ", 1<<20) + "1": "longer than",
	} {
		if _, err := Parse([]byte(text), rules); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	// Every fault is told at once, each with its entry.
	_, err := Parse([]byte(`{"disks":[{"name":"a","type":"x"},{"name":"b","type":"directory","path":"y"}],"volumes":{"v":{"persistence":"z"}}}`), rules)
	var entry *EntryError
	if !errors.As(err, &entry) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{`disks[0] "a": `, `disks[1] "b": `, `volumes "v": `} {
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

// Whatever is accepted names files below the root only.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal(seeds, err)
	}
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text, rules)
		if err != nil {
			if !errors.Is(err, ErrBadFile) {
				t.Errorf("another kind of error: %v", err)
			}
			return
		}
		names := map[string]bool{}
		for _, d := range file.Disks {
			if names[d.Name] || volume.ValidateName("disk", d.Name) != nil {
				t.Errorf("name %q", d.Name)
			}
			names[d.Name] = true
			if !d.Known() {
				continue
			}
			for _, path := range []string{d.Dir, d.ImagePath(), d.keyFile(), d.marker()} {
				if rel, err := filepath.Rel(rules.Root, path); err != nil || !filepath.IsLocal(rel) {
					t.Errorf("disk %q lies at %q", d.Name, path)
				}
			}
			if d.IsCrypt() && (d.Size <= 0 || d.Size > volume.MaxSize) {
				t.Errorf("size %d", d.Size)
			}
		}
		for _, v := range file.Volumes {
			if v.Disk != "" && !names[v.Disk] {
				t.Errorf("volume on disk %q", v.Disk)
			}
		}
	})
}

func FuzzCompose(f *testing.F) {
	f.Add([]byte(`{"name":"web","storage":{"docker--var-x":{"persistence":"permanent"},"lxc-overlay":{"persistence":"boot"}}}`), []byte(`{"persistence":{"/var/x/":"permanent"}}`))
	f.Add([]byte(`{"name":"web","persistence":{"/a":"boot@d"}}`), []byte(`{}`))
	set := New(Config{Rules: rules}, File{Disks: []Disk{{Name: "d", Type: Directory, Dir: "/storage/d"}}})
	f.Fuzz(func(t *testing.T, run, src []byte) {
		c, err := set.Compose(run, src)
		if err != nil {
			return
		}
		for _, m := range c.Mounts {
			if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target {
				t.Errorf("target %q", m.Target)
			}
			if _, err := volume.ParseOptions(m.Options); err != nil {
				t.Errorf("options %v: %v", m.Options, err)
			}
		}
	})
}
