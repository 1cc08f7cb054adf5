package ext4

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever the tar, there is an error or a file system that e2fsck finds no fault
// with; nothing panics.
func FuzzFromTar(f *testing.F) {
	for _, items := range [][]item{
		nil,
		{file("a/b", "text"), hardlink("c", "a/b"), symlink("s", "../../etc"), directory("a", 0o1777)},
		{file("f", "1"), directory("f", 0o755), file("f/x", "2"), file("f", "3")},
		{file("d/.wh..wh..opq", ""), file(".wh.a", ""), file("a/b", ""), file(".wh..wh.x", "")},
		{file("../x", ""), file("/y", ""), directory("./", 0o700)},
		{file("x", "1").xattr("user.a", strings.Repeat("a", 500)).xattr("security.capability", "cap").xattr("trusted.overlay.opaque", "y")},
	} {
		f.Add(makeTar(f, items...))
	}
	whole := makeTar(f, file("a", strings.Repeat("content", 1000)))
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		image, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = image.Close() }()
		r := bytes.NewReader(body)
		// A header of a few bytes may ask for terabytes of zeros; the stream is as long as it is.
		result, err := FromTar(t.Context(), io.LimitReader(r, 1<<20), image, TarOptions{Dir: "diff"})
		if err != nil {
			return
		}
		if err := image.Truncate(result.Size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("e2fsck", "-fn", image.Name()).CombinedOutput(); err != nil {
			t.Fatalf("e2fsck: %v\n%s", err, out)
		}
	})
}
