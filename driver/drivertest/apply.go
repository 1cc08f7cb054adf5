package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"layervault/driver"
	"layervault/layer"
)

func testApply(t *testing.T, make Factory) {
	b := started(t, make)
	base := makeTar(t, file("keep", "base"), file("delete", "base"), directory("dir"), file("dir/a", "base"))
	b.apply("base", "", base)
	upper := makeTar(t, file(".wh.delete", ""), directory("dir"), file("dir/.wh..wh..opq", ""), file("dir/b", "upper"), file("keep", "upper"))
	check := func(dir string) {
		t.Helper()
		wantContent(t, dir, "keep", "upper")
		wantContent(t, dir, "dir/b", "upper")
		wantGone(t, dir, "delete")
		wantGone(t, dir, "dir/a")
	}

	// A layer somebody looked at first, as docker's graphtest does, is sealed all the same.
	b.create("looked", "base")
	b.with("looked", func(dir string) { wantContent(t, dir, "delete", "base") })
	size, err := b.ApplyDiff(b.ctx, "looked", "base", bytes.NewReader(upper))
	b.ok(err)
	if size != 10 {
		t.Errorf("size %d, want 10", size)
	}
	b.with("looked", check)

	// A retry of what was sealed changes nothing, whatever it carries.
	for _, body := range [][]byte{nil, upper[1024:], upper, base} {
		again, err := b.ApplyDiff(b.ctx, "looked", "base", bytes.NewReader(body))
		b.ok(err)
		if again != size {
			t.Errorf("the retry says %d, want %d", again, size)
		}
	}
	b.with("looked", check)

	// A layer somebody wrote to keeps what was written beside what is applied.
	for _, mounted := range []bool{false, true} {
		b.ok(b.CreateReadWrite(b.ctx, "written", "base", nil))
		b.with("written", func(dir string) { write(t, dir, "mine", "mine"); write(t, dir, "dir/c", "mine") })
		if mounted {
			b.get("written")
		}
		_, err := b.ApplyDiff(b.ctx, "written", "base", bytes.NewReader(upper))
		b.ok(err)
		b.with("written", func(dir string) {
			check(dir)
			wantContent(t, dir, "mine", "mine")
			wantGone(t, dir, "dir/c")
		})
		b.ok(b.Remove(b.ctx, "written"))
	}

	b.create("astray", "base")
	_, err = b.ApplyDiff(b.ctx, "astray", "", bytes.NewReader(upper))
	b.wants(err, driver.ErrParent)
}

// Tars as other tools write them, which docker takes.
func testApplyForeign(t *testing.T, make Factory) {
	b := started(t, make)
	whole := makeTar(t, file("one", "11111"), file("two", "22222"))
	for name, body := range map[string][]byte{
		"no-end-mark":    whole[:2048],
		"one-zero-block": whole[:2560],
		"no-padding":     whole[:1024+512+5],
		"padded":         append(bytes.Clone(whole), bytes.Repeat([]byte{0}, 20480)...),
	} {
		if size := b.apply(name, "", body); size != 10 {
			t.Errorf("%s: size %d", name, size)
		}
		b.with(name, func(dir string) {
			wantContent(t, dir, "one", "11111")
			wantContent(t, dir, "two", "22222")
		})
	}
	if size := b.apply("no-bytes", "", nil); size != 0 {
		t.Errorf("no bytes: size %d", size)
	}
	b.with("no-bytes", func(dir string) {
		if found := snapshot(t, dir); len(found) > 1 { // itself
			t.Errorf("no bytes: %v", found)
		}
	})
}

func testApplyInterrupted(t *testing.T, make Factory) {
	b := started(t, make)
	whole := makeTar(t, file("one", "11111"), file("two", "22222"))
	broken := errors.New("connection lost")
	for _, c := range []struct {
		name string
		body io.Reader
		want error
	}{
		{"in a header", bytes.NewReader(whole[:100]), layer.ErrCutOff},
		{"in a file", bytes.NewReader(whole[:514]), layer.ErrCutOff},
		{"connection", io.MultiReader(bytes.NewReader(whole[:1024]), iotest.ErrReader(broken)), broken},
		{"chunked body", io.MultiReader(bytes.NewReader(whole[:700]), iotest.ErrReader(io.ErrUnexpectedEOF)), layer.ErrCutOff},
		{"noise", bytes.NewReader(bytes.Repeat([]byte("noise"), 1000)), nil},
		{"climbs out", bytes.NewReader(makeTar(t, file("../../outside", "x"))), nil},
		{"links out", bytes.NewReader(makeTar(t,
			entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "/tmp"}, ""}, file("out/layervault-outside", "x"),
			entry{tar.Header{Typeflag: tar.TypeLink, Name: "passwd", Linkname: "../../../../etc/passwd"}, ""})), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.create("x", "")
			_, err := b.ApplyDiff(b.ctx, "x", "", c.body)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			// The rest of a tar can be a whole tar: it must not be taken for one.
			_, err = b.ApplyDiff(b.ctx, "x", "", bytes.NewReader(whole[1024:]))
			if !errors.Is(err, layer.ErrInterrupted) {
				t.Errorf("the rest of the tar: %v, want %v", err, layer.ErrInterrupted)
			}
			b.ok(b.Remove(b.ctx, "x"))
			b.create("x", "")
			_, err = b.ApplyDiff(b.ctx, "x", "", bytes.NewReader(whole))
			b.ok(err)
			b.ok(b.Remove(b.ctx, "x"))
		})
	}
	if _, err := os.Lstat("/tmp/layervault-outside"); err == nil {
		t.Error("a tar wrote outside its layer")
	}

	// No bytes at all are an empty layer, unless the tar may have gone out before.
	b.create("x", "")
	_, err := b.ApplyDiff(b.ctx, "x", "", iotest.ErrReader(io.ErrUnexpectedEOF))
	b.wants(err, layer.ErrCutOff)
	_, err = b.ApplyDiff(b.ctx, "x", "", bytes.NewReader(nil))
	b.wants(err, layer.ErrInterrupted)
	b.ok(b.Remove(b.ctx, "x"))

	// The same when the plugin was restarted in between.
	b.create("x", "")
	b.ok(b.Close(b.ctx))
	b.Driver = driver.New(b.cfg)
	b.init()
	for _, body := range [][]byte{whole[1024:], nil} {
		_, err = b.ApplyDiff(b.ctx, "x", "", bytes.NewReader(body))
		b.wants(err, layer.ErrInterrupted)
	}
	b.create("x", "") // still asked for: nothing was sent yet
	_, err = b.ApplyDiff(b.ctx, "x", "", bytes.NewReader(whole))
	b.ok(err)
	b.ok(b.Remove(b.ctx, "x"))

	// And when the client goes away.
	b.create("x", "")
	ctx, cancel := context.WithCancel(b.ctx)
	in, out := io.Pipe()
	go func() {
		_, _ = out.Write(whole[:1024]) // fails when the driver has given up already
		cancel()
		_ = out.CloseWithError(io.ErrUnexpectedEOF) // documented to return nil
	}()
	if _, err := b.ApplyDiff(ctx, "x", "", in); err == nil {
		t.Error("a broken request was applied")
	}
	b.ok(b.Remove(b.ctx, "x"))
	if left, err := filepath.Glob(filepath.Join(b.persist, "vault/layers/[^.]*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}
