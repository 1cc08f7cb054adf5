package volumetest

import (
	"fmt"

	"layervault/volume"
)

func testReboot(e *env) {
	e.create("stays")
	e.create("goes", "persistence=boot")
	e.create("clear", "persistence=boot", "clear=true")
	all := []string{"stays", "goes", "clear"}
	for _, name := range all {
		e.write(e.mount(name, "1"), "first boot")
	}
	e.unmount("goes", "1")
	e.reads(e.mount("goes", "2"), "first boot") // empty at the first mount only
	e.open()
	e.reads(e.mount("goes", "3"), "first boot")
	e.reboot("boot-2")
	want := map[string]string{"stays": "first boot"}
	for _, name := range all {
		dir := e.mount(name, "4")
		e.reads(dir, want[name])
		e.unmount(name, "4") // the ids of the first boot are gone with it
		e.absent(dir)
	}
}

func testRevision(e *env) {
	e.create("vol", "persistence=revision")
	e.create("bound", "persistence=revision", "revision=r1")
	_, err := e.store.Mount(e.Context(), "vol", "1")
	e.fails(err, volume.ErrNoRevision)
	for _, r := range []string{"r1", "r2", "r3"} {
		e.must(e.store.SetRevision(e.Context(), r))
		dir := e.mount("vol", r)
		e.reads(dir, "")
		e.write(dir, r)
		e.unmount("vol", r)
	}
	e.write(e.mount("bound", "1"), "bound")
	e.unmount("bound", "1")
	e.must(e.store.SetRevision(e.Context(), "r1"))
	old := e.mount("vol", "1")
	e.reads(old, "r1")
	e.must(e.store.SetRevision(e.Context(), "r3"))
	now := e.mount("vol", "2") // beside the container of the earlier revision
	e.reads(now, "r3")
	e.reads(old, "r1")
	e.unmount("vol", "1")
	e.absent(old)
	e.reads(now, "r3")

	done, err := e.store.GCRevisions(e.Context(), nil, true)
	e.must(err)
	if fmt.Sprint(done.Removed) != "map[vol:[r2]]" {
		e.Errorf("dry run would remove %v", done.Removed)
	}
	done, err = e.store.GCRevisions(e.Context(), nil, false)
	e.must(err)
	if fmt.Sprint(done.Removed, done.Kept, done.Failed) != "map[vol:[r2]] [r1 r3] map[]" {
		e.Errorf("removed %v, kept %v, failed %v", done.Removed, done.Kept, done.Failed)
	}
	r, err := e.store.Revisions()
	e.must(err)
	if r.Current != "r3" || len(r.Known) != 2 {
		e.Errorf("known are %+v", r)
	}
	e.unmount("vol", "2")
	e.must(e.store.SetRevision(e.Context(), "r2"))
	e.reads(e.mount("vol", "3"), "")
	e.unmount("vol", "3")
	e.must(e.store.SetRevision(e.Context(), "r1"))
	e.reads(e.mount("bound", "2"), "bound")
	e.unmount("bound", "2")
}
