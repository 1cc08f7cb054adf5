//go:build guest

package crypt_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	archive "github.com/moby/go-archive"

	"layervault/crypt"
	"layervault/crypt/ext4"
)

// smallFiles is a layer of n files of up to 8 KiB, 100 in a directory.
func smallFiles(b *testing.B, n int) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	body := make([]byte, 8<<10)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(body)
	for i := range n {
		size := int64(i*7919) % int64(len(body))
		if i%100 == 0 {
			must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d/%d/", i/100), Mode: 0o755}))
		}
		must(b, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d/%d/file-%d", i/100, i), Mode: 0o644, Size: size}))
		_, err := w.Write(body[:size])
		must(b, err)
	}
	must(b, w.Close())
	return out.Bytes()
}

// smallCount is how many; BENCH_FILES for fewer where time is short.
func smallCount(b *testing.B) int {
	text := os.Getenv("BENCH_FILES")
	if text == "" {
		return 40000
	}
	n, err := strconv.Atoi(text)
	must(b, err)
	return n
}

// debianRoot is the guest's own /usr and /etc, a Debian root with much the same
// mix of files as the image "debian".
func debianRoot(b *testing.B) []byte {
	out, err := exec.Command("tar", "-C", "/", "--exclude=usr/lib/modules", "--exclude=usr/bin/dockerd", "-cf", "-", "usr", "etc").Output()
	must(b, err)
	return out
}

func BenchmarkImport(b *testing.B) {
	for _, c := range []struct {
		name string
		tar  func(*testing.B) []byte
	}{
		{"debian", debianRoot},
		{"small files", func(b *testing.B) []byte { return smallFiles(b, smallCount(b)) }},
	} {
		b.Run(c.name, func(b *testing.B) { importAll(b, c.tar(b)) })
	}
}

func importAll(b *testing.B, body []byte) {
	unpack := func(b *testing.B) {
		must(b, archive.Unpack(bytes.NewReader(body), b.TempDir(), &archive.TarOptions{WhiteoutFormat: archive.OverlayWhiteoutFormat}))
	}
	b.Run("overlay2's unpack", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for range b.N {
			unpack(b)
		}
	})
	b.Run("the same and sync", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for range b.N {
			unpack(b)
			sh(b, "sync")
		}
	})
	b.Run("sealed image", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for range b.N {
			result, err := device(b, readOnly).load(b.Context(), bytes.NewReader(body))
			must(b, err)
			b.ReportMetric(float64(result.Bytes)/float64(result.Size), "bytes/payload")
		}
	})
	b.Run("to nowhere", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for range b.N {
			_, err := ext4.FromTar(b.Context(), bytes.NewReader(body), nowhere{}, ext4.TarOptions{Dir: "diff"})
			must(b, err)
		}
	})
}

// nowhere shows what the formatting alone costs.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

var _ io.WriterAt = nowhere{}

func BenchmarkOpen(b *testing.B) {
	sealed := device(b, readOnly)
	_, err := sealed.load(b.Context(), bytes.NewReader(layerTar(b, nil)))
	must(b, err)
	uuid, _ := sealed.UUID()
	b.Run("get and put, closed", func(b *testing.B) {
		for range b.N {
			must(b, sealed.get(b.Context()))
			must(b, sealed.put())
			b.StopTimer()
			gone(b, uuid, sealed.Path)
			b.StartTimer()
		}
	})
	b.Run("get and put, open", func(b *testing.B) {
		must(b, sealed.get(b.Context()))
		held, err := sealed.hold()
		must(b, err)
		defer func() { _ = held.Close() }()
		must(b, sealed.put())
		for range b.N {
			must(b, sealed.get(b.Context()))
			must(b, sealed.put())
		}
	})
	b.Run("mount and put, held", func(b *testing.B) {
		must(b, sealed.get(b.Context()))
		held, err := sealed.hold()
		must(b, err)
		defer func() { _ = held.Close() }()
		must(b, sealed.put())
		for range b.N {
			must(b, held.Mount(sealed.mnt))
			must(b, sealed.put())
		}
	})
	b.Run("import of nothing", func(b *testing.B) {
		for range b.N {
			_, err := device(b, readOnly).load(b.Context(), bytes.NewReader(layerTar(b, nil)))
			must(b, err)
		}
	})
	b.Run("create", func(b *testing.B) {
		for range b.N {
			d := device(b, writable)
			d.making.Templates = nil
			must(b, d.create(b.Context(), 64<<30))
		}
	})
	b.Run("create from a template", func(b *testing.B) {
		templates := new(crypt.Templates)
		for i := range b.N + 1 {
			d := device(b, writable)
			d.making.Templates = templates
			must(b, d.create(b.Context(), 64<<30))
			if i == 0 {
				b.ResetTimer() // the first run makes the template
			}
		}
	})
	b.Run("mkfs alone", func(b *testing.B) {
		for range b.N {
			f, err := os.Create(filepath.Join(b.TempDir(), "f"))
			must(b, err)
			must(b, f.Truncate(64<<30))
			_ = f.Close()
			must(b, ext4.Mkfs(b.Context(), f.Name(), ext4.MkfsOptions{Dirs: []ext4.Dir{{Name: "diff", Mode: 0o755}}}))
		}
	})
}
