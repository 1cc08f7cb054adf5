package drivertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"layervault/driver"
	"layervault/layer"
)

func testLifecycle(t *testing.T, make Factory) {
	b := started(t, make)
	b.create("a", "")
	b.create("a", "") // a retry
	dir := b.get("a")
	if again := b.get("a"); again != dir {
		t.Errorf("Get gave %s, then %s", dir, again)
	}
	fi, err := os.Stat(dir)
	b.ok(err)
	if fi.Mode() != os.ModeDir|0o755 {
		t.Errorf("an empty layer's root is %v", fi.Mode())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("an empty layer holds %v (%v)", entries, err)
	}
	write(t, dir, "file", "hello")
	b.put("a")
	wantContent(t, dir, "file", "hello") // one Get is left
	b.put("a")
	wantGone(t, dir, "")
	b.put("a")
	b.put("unknown")
	b.with("a", func(dir string) { wantContent(t, dir, "file", "hello") })

	if !b.Exists(b.ctx, "a") || b.Exists(b.ctx, "unknown") || b.Exists(b.ctx, "../a") {
		t.Error("Exists is wrong")
	}
	b.create("child", "a")
	b.wants(b.Remove(b.ctx, "a"), layer.ErrInUse)
	b.with("child", func(dir string) {
		wantContent(t, dir, "file", "hello")
		write(t, dir, "file", "changed")
		write(t, dir, "new", "new")
	})
	b.with("child", func(dir string) { wantContent(t, dir, "file", "changed") })
	b.with("a", func(dir string) { wantContent(t, dir, "file", "hello"); wantGone(t, dir, "new") })

	b.get("child") // removed while mounted
	b.ok(b.Remove(b.ctx, "child"))
	b.ok(b.Remove(b.ctx, "child"))
	if b.Exists(b.ctx, "child") {
		t.Error("a removed layer exists")
	}
}

// testOrphans: docker forgets the layers of a container whose creation failed, by a plugin
// that was killed for example. They held their image for ever; a container's must stay.
func testOrphans(t *testing.T, make Factory) {
	for _, c := range []struct {
		name string
		do   func(b *bench) // what docker asked for, the last of it without hearing the answer
		user string         // who keeps the image, as the refusal names it; "" where all goes
	}{
		{"init layer made", func(b *bench) {}, ""},
		{"init layer mounted", func(b *bench) { b.get("c-init") }, ""},
		{"container's layer made", func(b *bench) { b.create("c", "c-init") }, ""},
		{"container written to", func(b *bench) {
			b.create("c", "c-init")
			b.with("c", func(dir string) { write(b.T, dir, "file", "somebody's") })
		}, "c"},
		{"container running", func(b *bench) { b.create("c", "c-init"); b.get("c") }, "c"},
		{"another layer", func(b *bench) { b.create("d", "c-init") }, "d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := started(t, make)
			b.create("image", "")
			b.create("c-init", "image")
			c.do(b)
			if c.user != "" {
				err := b.Remove(b.ctx, "image")
				b.wants(err, layer.ErrInUse)
				if !strings.HasSuffix(err.Error(), " is the parent of "+c.user) {
					t.Errorf("%q does not name layer %s", err, c.user)
				}
				return
			}
			b.ok(b.Remove(b.ctx, "image"))
			for _, id := range []string{"c", "c-init", "image"} {
				if b.Exists(b.ctx, id) {
					t.Errorf("layer %s stays", id)
				}
			}
		})
	}
}

func testOptions(t *testing.T, make Factory) {
	b := newBench(t, make)
	_, err := b.Get(b.ctx, "a", "")
	b.wants(err, driver.ErrNotReady)
	for _, c := range []struct {
		opt  string
		want error
		say  string
	}{
		{"layervault.nonsense=1", driver.ErrUnknownOption, "size"},
		{"layervault.size=many", driver.ErrBadSize, "20G"},
		{"layervault.size=1k", driver.ErrBadSize, "minimum"},
		{"layervault.size", nil, "key=value"},
	} {
		err := b.Init(b.ctx, driver.Options{Home: b.home, Opts: []string{c.opt}})
		if c.want != nil {
			b.wants(err, c.want)
		}
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: error %v does not say %q", c.opt, err, c.say)
		}
	}
	for _, home := range []string{"", "relative", "/", "/a/../b"} {
		b.wants(b.Init(b.ctx, driver.Options{Home: home}), driver.ErrBadHome)
	}
	b.ok(b.Init(b.ctx, driver.Options{Home: b.home, Opts: []string{"layervault.size=32M"}}))
	b.ok(b.Init(b.ctx, driver.Options{Home: b.home, Opts: []string{"size=32M"}}))
	t.Cleanup(b.removeAll)

	for _, c := range []struct {
		opts map[string]string
		want error
	}{
		{map[string]string{"size": "50M"}, nil},
		{map[string]string{"SIZE": "50M"}, nil},
		{map[string]string{"size": "-1"}, driver.ErrBadSize},
		{map[string]string{"size": "10"}, driver.ErrBadSize},
		{map[string]string{"inodes": "10"}, driver.ErrUnknownOption},
	} {
		opts := &driver.CreateOpts{StorageOpt: c.opts}
		b.wants(b.CreateReadWrite(b.ctx, "q", "", opts), c.want)
		if got := b.Exists(b.ctx, "q"); got != (c.want == nil) {
			t.Errorf("%v: exists %t", c.opts, got)
		}
		b.ok(b.CreateReadWrite(b.ctx, "q", "", &driver.CreateOpts{StorageOpt: map[string]string{"size": "50M"}})) // a retry
		b.wants(b.CreateReadWrite(b.ctx, "q", "", nil), layer.ErrExists)
		b.ok(b.Remove(b.ctx, "q"))
	}
}

func testBadInput(t *testing.T, make Factory) {
	b := started(t, make)
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a\x00", "a\n", "a b", ".hidden", "ä", strings.Repeat("x", 129)} {
		ctx := context.Background()
		_, getErr := b.Get(ctx, id, "")
		_, diffErr := b.Diff(ctx, id, "")
		_, changesErr := b.Changes(ctx, id, "")
		_, sizeErr := b.DiffSize(ctx, id, "")
		_, applyErr := b.ApplyDiff(ctx, id, "", bytes.NewReader(nil))
		_, metaErr := b.GetMetadata(ctx, id)
		for _, err := range []error{
			b.Create(ctx, id, "", nil), b.CreateReadWrite(ctx, id, "", nil), b.Remove(ctx, id), b.Put(ctx, id),
			getErr, diffErr, changesErr, sizeErr, applyErr, metaErr,
		} {
			b.wants(err, layer.ErrBadID)
		}
		if id != "" {
			b.wants(b.Create(ctx, "x", id, nil), layer.ErrBadID)
		}
	}
	_, err := b.Get(b.ctx, "nobody", "")
	b.wants(err, layer.ErrNotFound)
	_, err = b.GetMetadata(b.ctx, "nobody")
	b.wants(err, layer.ErrNotFound)
	_, err = b.ApplyDiff(b.ctx, "nobody", "", bytes.NewReader(makeTar(t)))
	b.wants(err, layer.ErrNotFound)
	b.wants(b.Create(b.ctx, "x", "nobody", nil), layer.ErrNotFound)
	b.wants(b.CreateReadWrite(b.ctx, "x", "nobody", nil), layer.ErrNotFound)
	if b.Exists(b.ctx, "x") {
		t.Error("a layer on an unknown parent exists")
	}

	// A damaged record is told and can be removed; the others go on.
	b.create("damaged", "")
	b.create("sound", "")
	b.ok(b.Close(b.ctx))
	b.ok(os.WriteFile(filepath.Join(b.persist, "vault/layers/damaged/layer.json"), []byte(`{"version":1,"id":"da`), 0o600))
	b.Driver = driver.New(b.cfg)
	b.init()
	_, err = b.Get(b.ctx, "damaged", "")
	b.wants(err, layer.ErrDamaged)
	b.with("sound", func(string) {})
	b.ok(b.Remove(b.ctx, "sound"))
	b.ok(b.Remove(b.ctx, "damaged"))

	// The context counts.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	b.create("c", "")
	if _, err := b.Get(ended, "c", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Get with an ended context: %v", err)
	}
}
