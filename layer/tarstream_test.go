package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"layervault/layer"
)

func TestTarStream(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	must(t, w.WriteHeader(&tar.Header{Name: "zeros", Size: 4096, Mode: 0o600}))
	if _, err := w.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	must(t, w.WriteHeader(&tar.Header{Name: "dir/", Mode: 0o700, Typeflag: tar.TypeDir}))
	must(t, w.Close())
	whole := buf.Bytes()
	for _, c := range []struct {
		name string
		in   io.Reader
		want error
	}{
		{"whole", bytes.NewReader(whole), nil},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(whole)), nil},
		{"padded", bytes.NewReader(append(bytes.Clone(whole), make([]byte, 10240)...)), nil},
		{"one end block", bytes.NewReader(whole[:len(whole)-512]), nil},
		{"no end block", bytes.NewReader(whole[:len(whole)-1024]), nil},
		{"nothing", bytes.NewReader(nil), nil},
		{"connection", io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(io.ErrUnexpectedEOF)), layer.ErrCutOff},
		{"failure", iotest.ErrReader(io.ErrClosedPipe), io.ErrClosedPipe},
	} {
		s := layer.NewTarStream(c.in)
		tr := tar.NewReader(s)
		for {
			if _, err := tr.Next(); err != nil {
				break
			}
		}
		if err := s.Finish(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
