package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"layervault/persist"
)

func testRace(e *env) {
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			if _, err := e.tryCreate("same", "size=32M"); err != nil {
				return err
			}
			id := fmt.Sprint(i)
			if _, err := e.store.Mount(e.Context(), "same", id); err != nil {
				return err
			}
			return e.store.Unmount(e.Context(), "same", id)
		})
	}
	e.must(g.Wait())
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != 1 {
		e.Errorf("made: %+v", all)
	}
	e.empty(e.cfg.Mounts)
	ctx, cancel := context.WithCancel(e.Context())
	cancel()
	if _, err := e.store.Mount(ctx, "same", "late"); !errors.Is(err, context.Canceled) {
		e.Errorf("mounted for nobody: %v", err)
	}
	e.empty(e.cfg.Mounts)
}

func testMany(e *env, n int) {
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			name := fmt.Sprintf("v%03d", i)
			if _, err := e.tryCreate(name, "size=32M"); err != nil {
				return err
			}
			dir, err := e.store.Mount(e.Context(), name, "1")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o600)
		})
	}
	e.must(g.Wait())
	all, err := e.store.List(e.Context())
	e.must(err)
	if len(all) != n {
		e.Errorf("%d volumes, want %d", len(all), n)
	}
	for _, v := range all {
		dir, err := e.store.Mountpoint(v)
		e.must(err)
		e.reads(dir, v.Name)
	}
	for _, v := range all {
		g.Go(func() error {
			return errors.Join(e.store.Unmount(e.Context(), v.Name, "1"), e.store.Remove(e.Context(), v.Name))
		})
	}
	e.must(g.Wait())
	e.empty(e.cfg.Layout.Volumes(persist.Vault))
	e.empty(e.cfg.Mounts)
}
