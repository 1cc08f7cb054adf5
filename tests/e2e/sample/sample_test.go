package sample_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"layervault/tests/e2e/sample"
	"layervault/tests/e2e/treesum"
)

// The generator, the reader of tars and the reader of directories must agree
// before any of them can judge a storage driver: GNU tar is the referee.
func TestOddTreeReadsBackAfterGNUTar(t *testing.T) {
	var layer bytes.Buffer
	if err := sample.Odd(&layer); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	cmd := exec.Command("tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root)
	cmd.Stdin = bytes.NewReader(layer.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	want, err := treesum.FromTar(&layer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := treesum.FromDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for path, w := range want {
		g := got[path]
		if g == nil {
			t.Errorf("%q is missing", path)
		} else if g.String() != w.String() {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
	for path, g := range got {
		if want[path] == nil && g.Type != 'd' { // parents that the tar only implies
			t.Errorf("extra %s", g)
		}
	}
}

func TestTreesThatDifferGiveDifferentLines(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "f")
	if err := os.WriteFile(file, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := lines(t, root)
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	if after := lines(t, root); after == before {
		t.Errorf("a changed byte does not show:\n%s", after)
	}
}

func TestLayeredIsAnImage(t *testing.T) {
	var image bytes.Buffer
	if err := sample.Layered(&image, "many:1", 12); err != nil {
		t.Fatal(err)
	}
	layers, whiteouts := 0, 0
	tr := tar.NewReader(&image)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, "layer.tar") {
			continue
		}
		layers++
		lr := tar.NewReader(tr)
		for {
			h, err := lr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(filepath.Base(h.Name), ".wh.") {
				whiteouts++
			}
		}
	}
	if layers != 12 || whiteouts != 1 {
		t.Errorf("got %d layers and %d whiteouts, want 12 and 1", layers, whiteouts)
	}
}

func lines(t *testing.T, root string) string {
	t.Helper()
	tree, err := treesum.FromDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tree.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
