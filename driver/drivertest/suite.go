// Package drivertest is the conformance suite of the graph driver: what must hold
// whatever the images are made of. It runs on plain images on any Linux machine
// and on encrypted ones where there is a device-mapper.
package drivertest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"layervault/driver"
	"layervault/layer"
	"layervault/persist"
)

// Factory says how a driver under test makes its images. It fills in what the
// suite leaves open.
type Factory func(cfg *driver.Config)

// Run runs the whole suite.
func Run(t *testing.T, make Factory) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, make Factory)
	}{
		{"Lifecycle", testLifecycle},
		{"Orphans", testOrphans},
		{"Options", testOptions},
		{"BadInput", testBadInput},
		{"Content", testContent},
		{"Overlay", testOverlay},
		{"Inodes", testInodes},
		{"Changes", testChanges},
		{"Apply", testApply},
		{"ApplyInterrupted", testApplyInterrupted},
		{"ApplyForeign", testApplyForeign},
		{"TooLongPath", testTooLongPath},
		{"SpecialFiles", testSpecialFiles},
		{"Deep", testDeep},
		{"Concurrent", testConcurrent},
		{"Quota", testQuota},
		{"UserNS", testUserNS},
		{"Restart", testRestart},
		{"Stream", testStream},
		{"Info", testInfo},
		{"Undo", testUndo},
		{"Astray", testAstray},
		{"Seal", testSeal},
		{"SealMounted", testSealMounted},
		{"NoSpace", testNoSpace},
		{"Kill", testKill},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, make) })
	}
}

// defaultSize is what writable layers get: small, so that a test can fill one.
const defaultSize = 64 << 20

// bench is a driver with directories of its own.
type bench struct {
	*testing.T
	*driver.Driver
	ctx     context.Context
	cfg     driver.Config
	home    string
	persist string
}

// newBench makes a driver, not initialised, that is closed and checked for leaks at
// the end of the test.
func newBench(t *testing.T, make Factory) *bench {
	t.Helper()
	// A name that would break an unescaped overlay option string.
	dir, err := os.MkdirTemp("", "driver:a,b c")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ctx: t.Context(), home: filepath.Join(dir, "home:latest"), persist: filepath.Join(dir, "persist")}
	b.cfg = driver.Config{
		Layout: persist.Layout{Root: b.persist}, DefaultSize: defaultSize,
		Scratch: filepath.Join(dir, "scratch"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	make(&b.cfg)
	b.Driver = driver.New(b.cfg)
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
		CheckNoLeaks(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

// started is newBench after Init. At the end it removes all layers, children first.
func started(t *testing.T, make Factory) *bench {
	t.Helper()
	b := newBench(t, make)
	b.init()
	t.Cleanup(b.removeAll)
	return b
}

func (b *bench) init() {
	b.Helper()
	b.ok(b.Init(b.ctx, driver.Options{Home: b.home}))
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) wants(err, target error) {
	b.Helper()
	if !errors.Is(err, target) {
		b.Errorf("error %v is not %v", err, target)
	}
}

func (b *bench) create(id, parent string) {
	b.Helper()
	b.ok(b.Create(b.ctx, id, parent, nil))
}

func (b *bench) get(id string) string {
	b.Helper()
	dir, err := b.Get(b.ctx, id, "")
	b.ok(err)
	return dir
}

func (b *bench) put(id string) {
	b.Helper()
	b.ok(b.Put(b.ctx, id))
}

// with gets a layer, runs f in its directory, and puts it.
func (b *bench) with(id string, f func(dir string)) {
	b.Helper()
	dir := b.get(id)
	defer b.put(id)
	f(dir)
}

func (b *bench) removeAll() {
	b.Helper()
	ctx := context.Background()
	s, err := b.Store()
	b.ok(err)
	for {
		ids, err := s.IDs()
		b.ok(err)
		if len(ids) == 0 {
			break
		}
		removed := 0
		for _, id := range ids {
			switch err := b.Remove(ctx, id); {
			case err == nil:
				removed++
			case !errors.Is(err, layer.ErrInUse):
				b.Fatal(err)
			}
		}
		if removed == 0 {
			b.Fatalf("cannot remove any of %v", ids)
		}
	}
	for _, dir := range []string{b.home, b.cfg.Layout.Layers(persist.Vault)} {
		entries, err := os.ReadDir(dir)
		b.ok(err)
		for _, e := range entries {
			if e.Name() != ".lock" {
				b.Errorf("%s is left", filepath.Join(dir, e.Name()))
			}
		}
	}
}

// leakPatience bounds the wait for the kernel, which closes devices some time
// after their last user, in an emulated guest some more.
const leakPatience = 20 * time.Second

// CheckNoLeaks fails the test if a mount, loop device or dm device of ours is
// left under dir.
func CheckNoLeaks(t *testing.T, dir string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(leakPatience); ; time.Sleep(10 * time.Millisecond) {
		left = leaks(t, dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, l := range left {
		t.Error(l)
	}
}

func leaks(t *testing.T, dir string) (left []string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		left = append(left, "mounted: "+m.Mountpoint)
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range backing {
		if name, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(name), dir) {
			left = append(left, "loop device: "+f+": "+strings.TrimSpace(string(name)))
		}
	}
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range names {
		if name, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(name), "layervault-") {
			left = append(left, "dm device: "+f+": "+strings.TrimSpace(string(name)))
		}
	}
	return left
}
