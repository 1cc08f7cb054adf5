package volumetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/persist"
	"layervault/volume"
)

// testCrashes ends each operation at each step at which the disk is in another state, and
// starts anew: the volume is as it was before, or as it was to become, and repeating the
// operation does it.
func testCrashes(e *env) {
	power := errors.New("the power went")
	operations := map[string]func() error{
		"create": func() error { _, err := e.tryCreate("vol", "size=32M"); return err },
		"clear":  func() error { _, err := e.tryCreate("vol", "clear=true"); return err },
		"purge":  func() error { _, err := e.store.Purge(e.Context(), "vol", volume.Options{}); return err },
		"move": func() error {
			_, err := e.store.Purge(e.Context(), "vol", volume.Options{Tier: persist.Unsealed})
			return err
		},
		"open up": func() error {
			_, err := e.store.Purge(e.Context(), "vol", volume.Options{Tier: persist.Clear})
			return err
		},
		"remove": func() error { return e.store.Remove(e.Context(), "vol") },
	}
	for name, run := range operations {
		for cut := 1; ; cut++ {
			makes := name == "create" || name == "clear"
			if !makes {
				e.create("vol", "size=32M")
				e.write(e.mount("vol", "1"), "before")
				e.unmount("vol", "1")
			}
			steps := 0
			e.cfg.Checkpoint = func(string) error {
				if steps++; steps == cut {
					return power
				}
				return nil
			}
			e.open()
			err := run()
			e.cfg.Checkpoint = nil
			e.open()
			if err == nil {
				break // there is no such step
			}
			e.fails(err, power)
			e.afterCrash(name, cut)
			e.removeAll()
		}
		e.removeAll()
	}
}

func (e *env) afterCrash(name string, cut int) {
	e.Helper()
	when := fmt.Sprintf("%s, cut at step %d", name, cut)
	v, err := e.store.Get(e.Context(), "vol")
	switch {
	case errors.Is(err, volume.ErrNotFound) && (name == "create" || name == "clear" || name == "remove"):
		return
	case err != nil:
		e.Fatalf("%s: %v", when, err)
	}
	dir := e.mount("vol", "1")
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.Fatal(err)
	}
	want := ""
	if name != "create" && name != "clear" && v.Generation == 0 {
		want = "before"
	}
	if string(got) != want {
		e.Errorf("%s: generation %d holds %q, want %q", when, v.Generation, got, want)
	}
	e.unmount("vol", "1")
	done, err := e.store.GC(e.Context(), false)
	e.must(err)
	for _, c := range done {
		e.must(c.Err)
	}
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 1 || all[0].ID() != v.ID() {
		e.Errorf("%s: left %+v", when, all)
	}
}

// What a crash leaves is swept at the next start, and a generation that a purge could not
// remove any more is collected.
func testSweep(e *env) {
	v := e.create("shared", "size=32M")
	keep := e.TempDir() + "/copy"
	copyFile(e, v.Path, keep)
	_, err := e.store.Purge(e.Context(), "shared", volume.Options{})
	e.must(err)
	e.must(os.Rename(keep, v.Path)) // the crash came before the old one was removed
	for _, name := range []string{"/.x#0.tmp-1", "/." + v.ID().String() + ".tmp-2"} {
		e.must(os.WriteFile(filepath.Dir(v.Path)+name, []byte("half made"), 0o600))
	}
	half := e.cfg.Layout.Volumes(persist.Clear) + "/.y#0.tmp-remove/diff"
	e.must(os.MkdirAll(half, 0o700))
	e.open()
	all, err := e.store.InspectAll(e.Context())
	e.must(err)
	if len(all) != 2 || all[0].State != volume.StateSuperseded || all[1].State != volume.StateReady {
		e.Errorf("after the crash: %+v", all)
	}
	now, err := e.store.Get(e.Context(), "shared")
	e.must(err)
	if now.Generation != 1 {
		e.Errorf("the volume is generation %d", now.Generation)
	}
	done, err := e.store.GC(e.Context(), true)
	e.must(err)
	if len(done) != 1 || done[0].Volume.ID() != v.ID() {
		e.Errorf("to collect: %+v", done)
	}
	done, err = e.store.GC(e.Context(), false)
	e.must(err)
	if len(done) != 1 || done[0].Err != nil {
		e.Errorf("collected: %+v", done)
	}
	entries, err := os.ReadDir(filepath.Dir(v.Path))
	e.must(err)
	if len(entries) != 1 {
		e.Errorf("left: %v", entries)
	}
	e.empty(e.cfg.Layout.Volumes(persist.Clear))
	e.empty(e.mount("shared", "1"))
	e.unmount("shared", "1")
}
