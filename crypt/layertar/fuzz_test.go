package layertar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	archive "github.com/moby/go-archive"

	"layervault/crypt/layertar"
)

// Whatever the tar, there is an error or a file system without a fault, of each
// format; nothing panics, and no more memory is taken than an import may.
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
	for _, c := range dialects(f) {
		f.Add(c.body)
	}
	whole := makeTar(f, file("a", strings.Repeat("content", 1000)))
	f.Add(whole[:len(whole)/2])
	f.Add(joined(paxHeader('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1152921504606846976"), rawHeader('0', "hole", 512), padded([]byte("0\n"))))
	f.Add(rawHeader('0', "f", 1<<60))
	f.Fuzz(checkImport)
}

// checkImport imports a tar and looks for faults.
func checkImport(t *testing.T, body []byte) {
	for _, fs := range formats {
		checkImportAs(t, fs, body)
	}
}

func checkImportAs(t *testing.T, fs format, body []byte) {
	path := filepath.Join(t.TempDir(), "image")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	before := restartPeak(t)
	result, err := fs.fromTar(t.Context(), bytes.NewReader(body), out, layertar.Options{Dir: "diff"})
	peak, peakErr := peakMemory()
	if peakErr != nil {
		t.Fatal(peakErr)
	}
	if took := peak - before; took > maxMemory*raceFactor {
		t.Errorf("took %d MiB of memory", took>>20)
	}
	if err != nil {
		return
	}
	if err := out.Truncate(result.Size); err != nil {
		t.Fatal(err)
	}
	if err := fs.check(path); err != nil {
		t.Fatal(err)
	}
}

// restartPeak makes the kernel count the peak of memory anew, from what is taken now, which
// it returns (proc(5), clear_refs).
func restartPeak(t *testing.T) int64 {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	now, err := peakMemory()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// entriesOf makes entries of any bytes: few names, so that they meet.
func entriesOf(data []byte) (items []item) {
	names := []string{"a", "b", "a/b", "a/c", "b/a", "a/b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "d/e/f", "b/c/d", "c"}
	targets := []string{"a", "b", "../a", "/b", "a/b", "/a/b/c", "c", "../../..", "b/../a", "."}
	for ; len(data) >= 4 && len(items) < 40; data = data[4:] {
		name, target := names[int(data[1])%len(names)], targets[int(data[2])%len(targets)]
		var i item
		switch data[0] % 8 {
		case 0, 1:
			i = file(name, strings.Repeat("x", int(data[3])*40))
		case 2, 3:
			i = directory(name, 0o700|int64(data[3]))
		case 4, 5:
			i = symlink(name, target)
		case 6:
			i = hardlink(name, names[int(data[2])%len(names)])
		case 7:
			// Not where other names lie below: docker's unpacker would open it, for ever.
			i = item{tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600}, ""}
		}
		i.Uid, i.ModTime = int(data[3]), time.Unix(int64(data[2])*1000, int64(data[3]))
		// Not to hard links: docker's newest unpacker gives attributes to what a symbolic link
		// leads to.
		if data[3]%5 == 0 && data[0]%8 < 4 {
			i = i.xattr("user."+string('a'+data[2]%3), strings.Repeat("v", int(data[3])*int(data[2]%16)))
		}
		items = append(items, i)
	}
	return items
}

// As FuzzFromTar, with tars that are well-formed.
func FuzzFromTarEntries(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 30 {
		f.Add(randomBytes(random, 120))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, makeTar(t, entriesOf(data)...)) })
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// Entries that replace, link and lead through each other, at random: where docker unpacks
// them, the tree is docker's.
func TestFromTarRandomEntries(t *testing.T) { eachFormat(t, testFromTarRandomEntries) }

func testFromTarRandomEntries(t *testing.T, fs format) {
	random, compared := rand.New(rand.NewPCG(5, 6)), 0
	for n := range 250 {
		items := entriesOf(randomBytes(random, 4*(2+n%8)))
		body, want := makeTar(t, items...), t.TempDir()
		if err := os.Chmod(want, 0o755); err != nil {
			t.Fatal(err)
		}
		if archive.Unpack(bytes.NewReader(body), want, &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}) != nil {
			continue // we may take it or not
		}
		_, err := fs.fromTar(t.Context(), bytes.NewReader(body), discard{}, layertar.Options{Dir: "diff"})
		if errors.Is(err, layertar.ErrParent) {
			continue // a symbolic link that leads nowhere: see TestFromTarDialects
		}
		compared++
		got, _ := build(t, fs, bytes.NewReader(body), layertar.Options{})
		a, b := tree(t, want), tree(t, got)
		for _, nodes := range []map[string]state{a, b} {
			maps.DeleteFunc(nodes, func(path string, _ state) bool { return path == "." })
			for path, s := range nodes {
				s.Mtime = "" // of directories that are implied, or written to later
				nodes[path] = s
			}
		}
		if diff := cmp.Diff(a, b); diff != "" {
			for _, i := range items {
				t.Logf("%c %s -> %s, %d bytes, %v", i.Typeflag, i.Name, i.Linkname, len(i.body), i.PAXRecords)
			}
			t.Fatalf("docker's unpacking (-), ours (+):\n%s", diff)
		}
	}
	if compared < 60 {
		t.Errorf("only %d were compared", compared)
	}
}
