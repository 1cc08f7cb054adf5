package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"layervault/volume"
)

// addSeeds adds the fixtures of one kind to a corpus.
func addSeeds(f *testing.F, pattern string, add func(text []byte)) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		add(text)
	}
}

// Whatever can be used names files below the root only, and is called what a disk may be.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"*-device.json", "all-types.json", "*disks.json"} {
		addSeeds(f, pattern, func(text []byte) { f.Add(text) })
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text, rules)
		if err != nil {
			if !errors.Is(err, ErrBadFile) {
				t.Errorf("another kind of error: %v", err)
			}
			return
		}
		parsed(t, file)
	})
}

// parsed checks what was read of a device.json.
func parsed(t *testing.T, file File) {
	t.Helper()
	set, names := New(Config{Rules: rules}, file), map[string]bool{}
	for _, d := range file.Disks {
		if names[d.Name] || d.Name == "" {
			t.Errorf("name %q", d.Name)
		}
		names[d.Name] = true
		if !d.Known() || d.Fault != nil {
			continue
		}
		if volume.ValidateDiskName(d.Name) != nil {
			t.Errorf("name %q", d.Name)
		}
		usable(t, set, d)
	}
	for _, v := range file.Volumes {
		if v.Disk != "" && !names[v.Disk] {
			t.Errorf("volume on disk %q", v.Disk)
		}
	}
}

// usable checks a disk that can be opened.
func usable(t *testing.T, set *Set, d Disk) {
	t.Helper()
	paths := []string{d.Dir}
	switch o := d.Type.kind().of(set, d).(type) {
	case *plainDisk:
		paths = append(paths, d.ImagePath(), o.key.keyFile(d), o.source(), o.marker())
	case luksDisk:
		paths = append(paths, d.ImagePath(), o.marker())
	}
	for _, path := range paths {
		if rel, err := filepath.Rel(rules.Root, path); err != nil || !filepath.IsLocal(rel) {
			t.Errorf("disk %q lies at %q", d.Name, path)
		}
	}
	if d.IsCrypt() && (d.Size <= 0 || d.Size > volume.MaxSize) {
		t.Errorf("size %d", d.Size)
	}
}

// composed checks what docker would be told.
func composed(t *testing.T, in Source) {
	t.Helper()
	set := New(Config{Rules: rules}, File{Disks: []Disk{
		{Name: "built-in", Type: Directory, Dir: "/storage/d", Default: true}, {Name: "dm-versatile", Type: "volume-disk", Aliases: []string{"data"}},
	}})
	c, err := set.Compose(in)
	if err != nil {
		if !errors.Is(err, ErrBadFile) {
			t.Errorf("another kind of error: %v", err)
		}
		return
	}
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		if !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target || m.Target == "/" {
			t.Errorf("target %q", m.Target)
		}
		if _, err := volume.ParseOptions(m.Options); err != nil {
			t.Errorf("options %v: %v", m.Options, err)
		}
		if err := volume.ValidateName("volume", m.Volume); err != nil {
			t.Error(err)
		}
		if seen[m.Target] || seen[m.Volume] {
			t.Errorf("%q or %q is there twice", m.Target, m.Volume)
		}
		seen[m.Target], seen[m.Volume] = true, true
	}
}

// run.json, with a src.json beside it.
func FuzzRun(f *testing.F) {
	addSeeds(f, "*-run.json", func(run []byte) {
		f.Add(run, []byte(nil))
		addSeeds(f, "*-src.json", func(src []byte) { f.Add(run, src) })
	})
	f.Fuzz(func(t *testing.T, run, src []byte) {
		if len(src) == 0 {
			src = nil
		}
		composed(t, Source{Text: run, Src: src, Folder: "web"})
	})
}

// src.json alone.
func FuzzSource(f *testing.F) {
	addSeeds(f, "*-src.json", func(src []byte) { f.Add(src) })
	f.Fuzz(func(t *testing.T, src []byte) { composed(t, Source{Text: src, Name: "web"}) })
}
