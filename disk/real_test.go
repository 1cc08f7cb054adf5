package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The fixtures here have the shapes of files of public repositories: pantavisor's
// test/pvtx/resources and docs, meta-pantavisor's default skeletons, pantahub-base's test of
// a realistic device.json. The names are ours.

func fixture(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What Pantavisor's parser takes is taken, and its disks are of use.
func TestRealDevices(t *testing.T) {
	for name, want := range map[string]struct {
		disks, volumes string
		warnings       []string
	}{
		"board-device.json": {
			"board-secrets dm-crypt-dcp nxp /storage/dm-crypt-files/board-secrets/dcp.img 2097152 dcp_key_board; zram-swap-1 swap-disk",
			"[{pv--devmeta boot } {pv--usrmeta permanent board-secrets} {pv--firmware boot }]", nil,
		},
		"dual-device.json": {
			"_INT-secrets-mainline dm-crypt-caam mainline /storage/dm-crypt-files/secrets-ml/caam-mainline.img 2097152 key-ml; " +
				"_INT-secrets-nxp dm-crypt-caam nxp /storage/dm-crypt-files/secrets/caam.img 2097152 key; " +
				"soft dm-crypt-versatile /storage/soft/versatile.img 2097152 versatile_key dm-versatile; secrets dual dm-secrets",
			"[{pv--devmeta permanent secrets} {pv--usrmeta permanent soft}]",
			[]string{`disks_v3[1] "fast": key type: unknown type "raid"`, `volumes "pv--phconfig": left out: key disk: no such disk: "fast"`},
		},
		"bind-device.json": {"internal volume-disk dm-versatile", "[{pv--devmeta permanent internal}]", nil},
		"old-disks.json": {
			"built-in directory /storage/disks default; dm-versatile dm-crypt-versatile /storage/dm-crypt-file/disk1/versatile.img 8388608 versatile_key; " +
				"dm-caam dm-crypt-caam nxp /storage/dm-crypt-file/disk1/caam.img 8388608 caam_key; zram-volume volume-disk",
			"[]",
			[]string{`disks[1] "dm-versatile": key options: "...." ignored`, `disks[2] "dm-caam": key options: "...." ignored`},
		},
	} {
		f, err := Parse(fixture(t, name), rules)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var disks []string
		for _, d := range f.Disks {
			if d.Fault != nil {
				t.Errorf("%s: %v", name, d.Fault)
			}
			disks = append(disks, short(d))
		}
		if got := strings.Join(disks, "; "); got != want.disks {
			t.Errorf("%s: disks\n%s\nwant\n%s", name, got, want.disks)
		}
		if got := fmt.Sprint(f.Volumes); got != want.volumes {
			t.Errorf("%s: volumes %s", name, got)
		}
		warned(t, name, f.Warnings, want.warnings)
	}
}

// warned wants each of these warnings, in this order, and no other.
func warned(t *testing.T, name string, got []Warning, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: warnings %v", name, got)
		return
	}
	for i, w := range got {
		if !strings.HasPrefix(w.String(), want[i]) {
			t.Errorf("%s: warning %q, want %q", name, w, want[i])
		}
	}
}

// One disk that we cannot use keeps no other away, nor do volumes that are meant for it
// go elsewhere.
func TestFaultyDiskIsAlone(t *testing.T) {
	f, err := Parse([]byte(`{"disks":[{"name":"out","default":"yes","aliases":["o"],"type":"directory","path":"/etc"},{"name":"in","type":"directory","path":"/storage/in"}],
		"volumes":{"v":{"persistence":"permanent"},"w":{"persistence":"permanent","disk":"in"}}}`), rules)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Rules: rules}, f)
	if got := fmt.Sprint(f.Volumes); got != "[{v permanent out} {w permanent in}]" {
		t.Errorf("volumes %s", got)
	}
	for _, name := range []string{"out", "o", "default"} {
		if _, err := s.Resolve(name); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), "outside /storage") {
			t.Errorf("%s resolves: %v", name, err)
		}
	}
	if name, err := s.Resolve("in"); err != nil || name != "in" {
		t.Errorf("in is %q, %v", name, err)
	}
	all, err := s.Inspect()
	if err != nil || len(all) != 2 || all[0].State != StateFaulty || all[1].State != StateNew {
		t.Errorf("inspected %+v, %v", all, err)
	}
}

// An alias that two disks claim, or that is another disk's name, is refused whatever the
// types: Pantavisor refuses such a file too.
func TestAliasesOfAllTypes(t *testing.T) {
	for _, second := range []string{
		`{"name":"b","type":"volume-disk","aliases":["a"]}`, `{"name":"b","type":"dual","aliases":["x"]}`, `{"name":"x","type":"swap-disk"}`, `{"name":"a","type":"swap-disk"}`,
	} {
		text := `{"disks":[{"name":"a","type":"volume-disk","aliases":["x","x","a"]},` + second + `]}`
		if _, err := Parse([]byte(text), rules); !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), "already") {
			t.Errorf("%s: %v", second, err)
		}
	}
}

// Disks may lie in a file of their own, disks_v3.json with types that are not known.
func TestListFiles(t *testing.T) {
	for name, want := range map[string]error{"disks_v3.json": nil, "disks.json": ErrBadFile} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(`[{"name":"d","type":"directory","path":"/storage/d"},{"name":"later","type":"raid"}]`), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Load(Config{Rules: rules}, file)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Find("d"); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A default disk that only Pantavisor opens is the default all the same: what is meant for
// it does not go elsewhere.
func TestDefaultOfPantavisor(t *testing.T) {
	f, err := Parse([]byte(`{"disks":[{"name":"theirs","type":"volume-disk","default":"yes"}],"volumes":{"v":{"persistence":"permanent"}}}`), rules)
	if err != nil || fmt.Sprint(f.Volumes) != "[{v permanent theirs}]" {
		t.Errorf("volumes %v, %v", f.Volumes, err)
	}
	if err := New(Config{Rules: rules}, f).MountAt(t.Context(), "default", t.TempDir()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("mounted: %v", err)
	}
}

// Flags as Pantavisor's mount_options have them.
func TestMountOptions(t *testing.T) {
	f, err := Parse([]byte(`[{"name":"d","type":"directory","path":"/storage/d","mount_options":"MS_NOSUID, MS_SYNCHRONOUS,MS_NODEV,bogus","options":"noexec"}]`), rules)
	if err != nil || f.Disks[0].Options != "nosuid,sync,nodev" {
		t.Errorf("options %q, %v", f.Disks[0].Options, err)
	}
	warned(t, "options", f.Warnings, []string{`disks[0] "d": key mount_options: "bogus" ignored`, `disks[0] "d": key options: ignored, key mount_options is set too`})
}

// told is a container in one line for each mount.
func told(c Container) string {
	var b strings.Builder
	for _, m := range c.Mounts {
		fmt.Fprintf(&b, "%s %s %s", m.Volume, m.Target, strings.Join(m.Flags(), " "))
		if m.Guessed {
			b.WriteString(" guessed")
		}
		if m.Overlay {
			b.WriteString(" overlay")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Containers as their files are: no volume is lost without a word, and a mount point is
// only guessed where nothing tells it.
func TestRealContainers(t *testing.T) {
	disks := File{Disks: []Disk{{Name: "internal", Type: "volume-disk", Aliases: []string{"dm-versatile"}}}}
	overlay := `os.docker--etc-modules-load.d /etc/modules-load.d -o persistence=permanent
os.docker--pvrun-dbus /pvrun/dbus -o persistence=boot
os.docker--var-pv /var/pv -o persistence=permanent
os.dockerovl--pvconfigs-nm-connections /pvconfigs/nm-connections -o persistence=permanent overlay
os.dockerovl--var-lib-connman /var/lib/connman -o persistence=permanent overlay
`
	dashes := `sdk.docker--data /data -o disk=internal -o persistence=permanent -o platform=sdk
sdk.docker--etc-dropbear /etc/dropbear -o persistence=permanent
sdk.docker--etc-volume /etc-volume -o persistence=permanent
sdk.docker--home-pantavisor-.ssh /home/pantavisor/.ssh -o persistence=permanent
`
	guessed := `sdk.docker--data /data -o disk=internal -o persistence=permanent -o platform=sdk
sdk.docker--etc-dropbear /etc/dropbear -o persistence=permanent guessed
sdk.docker--etc-volume /etc/volume -o persistence=permanent guessed
sdk.docker--home-pantavisor-.ssh /home/pantavisor/.ssh -o persistence=permanent guessed
`
	overlays := []string{`persistence "ovl:/pvconfigs/nm-connections": Pantavisor shows`, `persistence "ovl:/var/lib/connman": Pantavisor shows`}
	for _, tt := range []struct {
		what, file, src, folder, want string
		warnings, left                []string
	}{
		{"run and src", "overlay-run.json", "overlay-src.json", "os", overlay,
			[]string{`storage "dockerovl--pvconfigs-nm-connections": Pantavisor shows`, `storage "dockerovl--var-lib-connman": Pantavisor shows`}, nil},
		{"src without a name", "overlay-src.json", "", "os", overlay, overlays, nil},
		{"the image tells what a dash was", "dashes-run.json", "dashes-src.json", "", dashes,
			[]string{`storage "docker--data": disk internal is of type volume-disk`, `storage "lxc-overlay": root of the container`}, []string{`storage "etc/example/": not a storage key that pvr derives`}},
		{"nothing tells it", "dashes-run.json", "", "", guessed,
			[]string{`storage "docker--data": disk internal is of type volume-disk`, `storage "lxc-overlay": root of the container`}, []string{`storage "etc/example/": not a storage key that pvr derives`}},
		{"the same of src alone", "dashes-src.json", "", "sdk", dashes,
			[]string{`persistence "/data": disk internal is of type volume-disk`}, nil},
		{"no volumes at all", "plain-src.json", "", "nginx", "", nil, nil},
	} {
		in := Source{Text: fixture(t, tt.file), Folder: tt.folder}
		if tt.src != "" {
			in.Src = fixture(t, tt.src)
		}
		c, err := New(Config{Rules: rules}, disks).Compose(in)
		if err != nil || told(c) != tt.want {
			t.Errorf("%s: %v, got\n%swant\n%s", tt.what, err, told(c), tt.want)
		}
		warned(t, tt.what, c.Warnings, tt.warnings)
		warned(t, tt.what+", left out", c.LeftOut, tt.left)
	}
}

func TestCompose(t *testing.T) {
	for _, tt := range []struct {
		text, src      string
		want           string // told, or the error
		warnings, left []string
		bad            bool
	}{
		{text: `{"name":"w","storage":{"docker--a":{"persistence":"forever"},"docker--b":{"persistence":"boot"}}}`,
			want: "w.docker--b /b -o persistence=boot\n", left: []string{`storage "docker--a": key persistence`}},
		{text: `{"name":"w","storage":{"docker--a":{"persistence":"boot","disk":"none"},"docker--b":{}}}`, left: []string{`storage "docker--a": key disk: no such disk: "none"`}},
		{text: `{"name":"w","storage":{"docker--a":{"persistence":"boot","size":1}}}`, want: "w.docker--a /a -o persistence=boot\n", warnings: []string{`storage "docker--a": key "size": unknown`}},
		{text: `{"name":"w","storage":{"docker--a-b":{"persistence":"boot"}}}`, src: `{"persistence":{"/a-b":"boot","/a/b/":"boot"}}`,
			want: "w.docker--a-b /a-b -o persistence=boot guessed\n", warnings: []string{`storage "docker--a-b": src.json has 2 mount points`}},
		{text: `{"name":"w","storage":{}}`, src: `{"persistence":{"/new":"boot","lxc-overlay":"boot"}}`, warnings: []string{`src.json "/new": run.json has no docker--new`}},
		{text: `{"name":"w","persistence":{"/a":"boot","/a/":"permanent","/b/":"boot@","c":"revision","/d/../e":"boot","/":"boot","/x/ y":"boot"}}`,
			want: "w.docker--a /a -o persistence=boot\nw.docker-c /c -o persistence=revision\n",
			left: []string{`persistence "/a/": same mount point`, `persistence "": "/" is not a clean path`, `persistence "/b": bad volume option`, `persistence "/d/../e": "/d/../e" is not a clean path`, `persistence "/x/ y": bad name`}},
		{text: `{"name":"w","docker_config":{"Volumes":{"/a":{}}},"persistence":{"ovl:/a/":"boot"}}`, want: "w.dockerovl--a /a -o persistence=boot overlay\n",
			warnings: []string{`docker_config.Volumes "/a": ignored`, `persistence "ovl:/a": Pantavisor shows`}},
		{text: `{"name":"w","persistence":{"ovl:/a/":"boot","/a":"permanent"}}`, want: "w.docker--a /a -o persistence=permanent\n", left: []string{`persistence "ovl:/a": w.dockerovl--a at /a: volume w.docker--a`}},
		{text: `{"name":"w","persistence":null,"docker_config":null}`},
		{text: `{"name":"w","docker_config":[],"persistence":{}}`, left: []string{"docker_config: expected a JSON object"}},
		{text: `{"#spec":"service-manifest-run@1","name":"w"}`},
		{text: `{"name":"w"}`, want: "neither key storage", bad: true},
		{text: `{"storage":{}}`, want: "key name is missing", bad: true},
		{text: `{"name":7,"storage":{}}`, want: "key name: expected a string", bad: true},
		{text: `{"name":"a/b","storage":{}}`, want: "bad name", bad: true},
		{text: `{"name":"w","storage":[]}`, want: "key storage: expected a JSON object", bad: true},
		{text: `{"name":"w","storage":{}}`, src: `[]`, want: "src.json: expected", bad: true},
		{text: `[]`, want: "expected a JSON object", bad: true},
	} {
		in := Source{Text: []byte(tt.text)}
		if tt.src != "" {
			in.Src = []byte(tt.src)
		}
		c, err := New(Config{Rules: rules}, File{}).Compose(in)
		if tt.bad {
			if !errors.Is(err, ErrBadFile) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", tt.text, err)
			}
			continue
		}
		if err != nil || told(c) != tt.want {
			t.Errorf("%s: %v, got\n%s", tt.text, err, told(c))
		}
		warned(t, tt.text, c.Warnings, tt.warnings)
		warned(t, tt.text+", left out", c.LeftOut, tt.left)
	}
	c, err := New(Config{Rules: rules}, File{}).Compose(Source{Text: []byte(`{"name":"w","storage":{}}`), Name: "other", Folder: "third"})
	if err != nil || c.Name != "other" {
		t.Errorf("the name given: %q, %v", c.Name, err)
	}
	c, err = New(Config{Rules: rules}, File{}).Compose(Source{Text: []byte(`{"storage":{}}`), Folder: "third"})
	if err != nil || c.Name != "third" {
		t.Errorf("the folder's name: %q, %v", c.Name, err)
	}
	warned(t, "the folder's name", c.Warnings, []string{"name: no file has the name of the container; using the name of the folder: third"})
}

// A key file as Pantavisor's script makes it is of use, with a warning.
func TestKeyFileOthersMayRead(t *testing.T) {
	dir := t.TempDir()
	f, err := Parse([]byte(`[{"name":"d","type":"dm-crypt-versatile","path":"`+dir+`/f/v.img,2,k"}]`), Rules{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/f", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"v.img": 2 << 20, "k.txt": 32, "k.init_done": 0} {
		if err := os.WriteFile(dir+"/f/"+name, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look := func() Status {
		t.Helper()
		st := Status{Disk: f.Disks[0], State: StateReady}
		Versatile.kind().of(New(Config{Rules: Rules{Root: dir}}, f), st.Disk).inspect(&st)
		return st
	}
	if st := look(); len(st.Problems) > 0 || len(st.Warnings) != 1 || !strings.Contains(st.Warnings[0], "k.txt has mode 0644") {
		t.Errorf("found %+v", st)
	}
	if err := os.Truncate(dir+"/f/v.img", 3<<20); err != nil { // Pantavisor mounts it as it is
		t.Fatal(err)
	}
	if st := look(); len(st.Problems) > 0 || len(st.Warnings) != 2 {
		t.Errorf("larger: %+v", st)
	}
	if err := os.Truncate(dir+"/f/v.img", 1<<20); err != nil {
		t.Fatal(err)
	}
	if st := look(); len(st.Problems) != 1 {
		t.Errorf("cut off: %+v", st)
	}
}
