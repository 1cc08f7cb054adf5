//go:build guest

package crypt_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"layervault/crypt/loop"
)

// More loop devices at once than there used to be: 280 that are only attached, which is
// quick, and images above those.
func TestManyImages(t *testing.T) {
	const others, images = 280, 30
	backing, err := os.Create(filepath.Join(t.TempDir(), "other"))
	must(t, err)
	defer func() { _ = backing.Close() }()
	must(t, backing.Truncate(4096))
	for range others {
		d, err := loop.Attach(t.Context(), backing, loop.Options{})
		must(t, err)
		defer func() { _ = d.Close() }()
	}
	one := device(t, readOnly)
	devices := make([]*testImage, images)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range devices {
		d := *one
		dir := t.TempDir()
		d.Path = filepath.Join(dir, "image.luks")
		d.mnt = filepath.Join(dir, "mnt")
		must(t, os.Mkdir(d.mnt, 0o700))
		devices[i] = &d
		g.Go(func() error {
			if _, err := d.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"name": d.Path}))); err != nil {
				return err
			}
			return d.get(t.Context())
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	for _, d := range devices {
		if b, err := os.ReadFile(filepath.Join(d.mnt, "diff/name")); err != nil || string(b) != d.Path {
			t.Errorf("%s: %q, %v", d.Path, b, err)
		}
	}
	for _, d := range devices {
		must(t, d.put())
	}
	noneLeft(t)
}

// A file of more than 4 GiB, most of it holes, arrives with both its ends.
func TestLargeFile(t *testing.T) {
	const size = 4<<30 + 512<<20
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Mode: 0o644, Size: size})
		zeros := make([]byte, 1<<20)
		for at := 0; at < size && err == nil; at += len(zeros) {
			if at+len(zeros) == size {
				copy(zeros[len(zeros)-3:], "end")
			}
			_, err = tw.Write(zeros)
		}
		if err == nil {
			err = tw.Close()
		}
		_ = w.CloseWithError(err)
	}()
	d := device(t, readOnly)
	result, err := d.load(t.Context(), r)
	must(t, err)
	if result.Size != size {
		t.Errorf("size %d", result.Size)
	}
	var st unix.Stat_t
	must(t, unix.Stat(d.Path, &st))
	if st.Blocks*512 > 4<<20 {
		t.Errorf("%d bytes on disk", st.Blocks*512)
	}
	must(t, d.get(t.Context()))
	f, err := os.Open(filepath.Join(d.mnt, "diff/large"))
	must(t, err)
	defer func() { _ = f.Close() }()
	end := make([]byte, 5)
	_, err = f.ReadAt(end, size-5)
	must(t, err)
	if string(end) != "\x00\x00end" {
		t.Errorf("ends with %q", end)
	}
}
