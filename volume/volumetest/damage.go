package volumetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"layervault/persist"
	"layervault/volume"
)

func testLocked(e *env) {
	e.create("vol")
	e.create("other", "tier=unsealed-vault")
	locked := errors.New("the TPM says no")
	e.locked[persist.Vault] = locked
	_, err := e.store.Mount(e.Context(), "vol", "1")
	e.fails(err, locked)
	e.empty(e.cfg.Scratch)
	_, err = e.tryCreate("new")
	e.fails(err, locked)
	e.reads(e.mount("other", "1"), "")
	e.unmount("other", "1")
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 2 {
		e.Errorf("listed: %+v", all)
	}
	e.states(map[string]string{"vol": volume.StateLocked, "other": volume.StateReady})
	st, err := e.store.Inspect(e.Context(), "vol")
	e.must(err)
	if st.Reason != locked.Error() || st.Size != 64<<20 || st.Disk == 0 {
		e.Errorf("locked: %+v", st)
	}
	delete(e.locked, persist.Vault)
	dir := e.mount("vol", "x")
	e.locked[persist.Vault] = locked // what is open stays so, and opens once more
	e.states(map[string]string{"vol": volume.StateMounted, "other": volume.StateReady})
	if st, err := e.store.Inspect(e.Context(), "vol"); err != nil || fmt.Sprint(st.Docker) != "[x]" || st.Dir != dir {
		e.Errorf("mounted: %+v, %v", st, err)
	}
	e.mount("vol", "y")
	e.unmount("vol", "y")
	e.unmount("vol", "x")
	delete(e.locked, persist.Vault)
	e.unlocks("vol")
}

func testDamaged(e *env) {
	bad, good := e.create("bad"), e.create("good")
	f, err := os.OpenFile(bad.Path, os.O_RDWR, 0)
	e.must(err)
	_, err = f.WriteAt(make([]byte, 64<<10), 0)
	e.must(errors.Join(err, f.Close()))
	e.open()
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 2 {
		e.Fatalf("listed: %+v", all)
	}
	for _, v := range all {
		if (v.Damage != nil) != (v.ID() == bad.ID()) {
			e.Errorf("%s: %v", v.ID(), v.Damage)
		}
	}
	e.states(map[string]string{"bad": volume.StateDamaged, "good": volume.StateReady}) // the list knows its name
	_, err = e.store.Mount(e.Context(), "bad", "1")
	e.fails(err, volume.ErrDamaged, bad.ID().String())
	_, err = e.tryCreate("bad") // nobody gets an empty volume in its place
	e.fails(err, volume.ErrDamaged)
	_, err = e.store.Get(e.Context(), bad.ID().String())
	if err == nil {
		e.Error("a damaged volume has a record")
	}
	e.unlocks("good")
	// Two images that changed places on the disk open neither.
	third := e.create("third")
	e.must(os.Rename(good.Path, good.Path+".x"))
	e.must(os.Rename(third.Path, good.Path))
	e.must(os.Rename(good.Path+".x", third.Path))
	e.open()
	for _, v := range []volume.Volume{good, third} {
		_, err := e.store.Get(e.Context(), v.ID().String())
		e.fails(err, volume.ErrDamaged)
	}
}

// testSuperseded: the present generation is damaged, and the one before it lies there still,
// or again. It was mounted as the volume. Also in a tier without a list.
func testSuperseded(e *env) {
	for _, old := range []bool{false, true} {
		e.old = old
		first := e.create("vol", "size=32M")
		keep := filepath.Join(e.TempDir(), "keep")
		copyFile(e, first.Path, keep)
		now, err := e.store.Purge(e.Context(), "vol", volume.Options{})
		e.must(err)
		copyFile(e, keep, first.Path)
		if old {
			e.must(os.Remove(e.cfg.Layout.VolumeList(persist.Vault)))
		}
		e.must(os.WriteFile(now.Path, []byte("not a header"), 0o600))
		e.open()
		_, err = e.store.Mount(e.Context(), "vol", "1")
		e.fails(err, volume.ErrDamaged, now.ID().String())
		_, err = e.tryCreate("vol", "size=32M")
		e.fails(err, volume.ErrDamaged)
		e.states(map[string]string{"vol": volume.StateDamaged}, first.ID())
		done, err := e.store.GC(e.Context(), false)
		e.must(err)
		if len(done) != 1 || done[0].Err == nil {
			e.Errorf("collected %+v", done)
		}
		if _, err := os.Stat(first.Path); err != nil {
			e.Errorf("what may be all that is left was destroyed: %v", err)
		}
		if !old {
			e.must(e.store.Remove(e.Context(), "vol")) // both, as the list knows the name
			e.absent(now.Path)
			e.absent(first.Path)
			continue
		}
		e.fails(e.store.Remove(e.Context(), "vol"), volume.ErrDamaged)
		for _, id := range []volume.ID{now.ID(), first.ID()} {
			e.must(e.store.Remove(e.Context(), id.String()))
		}
	}
	e.old = false
	e.empty(e.cfg.Layout.Volumes(persist.Vault))
}

// A disk that was copied elsewhere still tells what its volumes are.
func testCopy(e *env) {
	v := e.create("copy", "size=32M", "mountopts=noatime,nodev")
	e.write(e.mount("copy", "1"), "copied")
	e.unmount("copy", "1")
	e.must(os.MkdirAll(filepath.Join(e.TempDir(), "x"), 0o700))
	there := e.TempDir()
	to := persist.Layout{Root: there}.Volumes(persist.Vault)
	e.must(os.MkdirAll(to, 0o700))
	copyFile(e, v.Path, filepath.Join(to, v.ID().String()))
	e.must(e.store.Remove(e.Context(), "copy"))
	e.cfg.Layout.Root = there
	e.open()
	got, err := e.store.Get(e.Context(), "copy")
	e.must(err)
	// That it is ours, and not something that was removed and came back, a person says.
	_, err = e.store.Mount(e.Context(), "copy", "1")
	e.fails(err, volume.ErrUnlisted, v.ID().String())
	_, err = e.store.Adopt(e.Context(), v.ID().String())
	e.must(err)
	if got.Record != v.Record {
		e.Errorf("the copy says %+v, was %+v", got.Record, v.Record)
	}
	e.reads(e.mount("copy", "1"), "copied")
	e.unmount("copy", "1")
}
