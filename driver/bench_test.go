package driver_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"layervault/driver"
	"layervault/persist"
)

// BenchmarkContainer is what docker run --rm asks of a driver, on an image of
// eight layers, with the share of each call.
func BenchmarkContainer(b *testing.B) {
	for _, size := range []int64{64 << 20, driver.DefaultSize} {
		b.Run(fmt.Sprintf("%dM", size>>20), func(b *testing.B) { benchContainer(b, size) })
	}
}

func benchContainer(b *testing.B, size int64) {
	ctx := b.Context()
	dir := b.TempDir()
	cfg := driver.Config{
		Layout: persist.Layout{Root: filepath.Join(dir, "persist")}, DefaultSize: size,
		Scratch: filepath.Join(dir, "scratch"), Log: slog.New(slog.DiscardHandler),
	}
	images(&cfg)
	d := driver.New(cfg)
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(d.Init(ctx, driver.Options{Home: filepath.Join(dir, "home")}))
	defer func() { must(d.Close(context.WithoutCancel(ctx))) }()
	image := ""
	for n := range 8 {
		id := fmt.Sprint("layer", n)
		must(d.Create(ctx, id, image, nil))
		var body bytes.Buffer
		w := tar.NewWriter(&body)
		must(w.WriteHeader(&tar.Header{Name: id, Mode: 0o644, Typeflag: tar.TypeReg}))
		must(w.Close())
		_, err := d.ApplyDiff(ctx, id, image, &body)
		must(err)
		image = id
	}
	spent := make(map[string]time.Duration)
	timed := func(what string, f func() error) {
		b.Helper()
		start := time.Now()
		must(f())
		spent[what] += time.Since(start)
	}
	get := func(id string) func() error {
		return func() error {
			_, err := d.Get(ctx, id, "")
			return err
		}
	}
	for b.Loop() {
		timed("create", func() error { return d.CreateReadWrite(ctx, "c-init", image, nil) })
		timed("get", get("c-init"))
		timed("put", func() error { return d.Put(ctx, "c-init") })
		timed("create", func() error { return d.CreateReadWrite(ctx, "c", "c-init", nil) })
		timed("get", get("c"))
		timed("put", func() error { return d.Put(ctx, "c") })
		timed("remove", func() error { return d.Remove(ctx, "c") })
		timed("remove", func() error { return d.Remove(ctx, "c-init") })
	}
	for what, total := range spent {
		b.ReportMetric(float64(total.Milliseconds())/float64(b.N), what+"-ms/op")
	}
}
