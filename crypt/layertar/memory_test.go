//go:build !race

// The race detector takes several times the memory that is measured here; the suite bombs
// runs this without.

package layertar_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"layervault/crypt/layertar"
)

// A tar costs less than 96 MiB of memory whatever it holds, and exceeds no bound without
// being told which.
func TestFromTarMemory(t *testing.T) { eachFormat(t, testFromTarMemory) }

func testFromTarMemory(t *testing.T, fs format) {
	deep := strings.Repeat("d/", 2000)
	for _, c := range []struct {
		name  string
		limit string // of the layertar.LimitError
		err   error  // another that is expected: its text
		write bomb
		ext4  bool // the bound is ext4's alone
	}{
		// Those of the security review.
		{name: "deep paths", limit: "directories without an entry of their own", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 300, func(i int) tar.Header { return tar.Header{Name: fmt.Sprintf("%d/%sf", i, deep)} })
		}},
		{name: "directories with large attributes", err: layertar.ErrXattr, write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 300, func(i int) tar.Header {
				return tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("%d/", i), PAXRecords: paxXattrs("user.x", strings.Repeat("x", 1<<20-100))}
			})
		}},
		{name: "hole of 2^60", err: layertar.ErrSparse, write: func(_ *tar.Writer, raw io.Writer) error {
			pax := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") + paxRecord("GNU.sparse.name", "hole") + paxRecord("GNU.sparse.realsize", strconv.Itoa(1<<60))
			_, err := raw.Write(bytes.Join([][]byte{rawHeader('x', "x", int64(len(pax))), padded([]byte(pax)), rawHeader('0', "hole", 512), padded([]byte("0\n")), make([]byte, 1024)}, nil))
			return err
		}},
		// Others.
		{name: "file of 2^60", limit: "bytes of one file", write: func(_ *tar.Writer, raw io.Writer) error {
			_, err := raw.Write(rawHeader('0', "f", 1<<60))
			return err
		}},
		{name: "empty files", limit: "names", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 2<<20, func(i int) tar.Header { return tar.Header{Name: fmt.Sprintf("%d/%d", i/1000, i)} })
		}},
		{name: "one directory of long names", write: func(w *tar.Writer, _ io.Writer) error {
			pad := strings.Repeat("n", 90)
			return each(w, 200000, func(i int) tar.Header { return tar.Header{Name: pad + strconv.Itoa(i)} })
		}},
		{name: "hard links", limit: "names", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 2<<20, func(i int) tar.Header {
				if i%60000 == 0 {
					return tar.Header{Name: fmt.Sprintf("f%d", i/60000)}
				}
				return tar.Header{Typeflag: tar.TypeLink, Name: strconv.Itoa(i), Linkname: fmt.Sprintf("f%d", i/60000)}
			})
		}},
		{name: "one name again and again", limit: "files and directories", write: func(_ *tar.Writer, raw io.Writer) error {
			return repeat(raw, 2<<20, rawHeader('0', "f", 0))
		}},
		{name: "every other file replaced", limit: "pieces of space left by replaced files", ext4: true, write: func(w *tar.Writer, _ io.Writer) error {
			for i := range 600000 {
				if err := w.WriteHeader(&tar.Header{Name: []string{"f", strconv.Itoa(i)}[i%2], Size: 1, Mode: 0o644}); err != nil {
					return err
				}
				if _, err := w.Write([]byte("x")); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "long link targets", limit: "bytes of names, link targets and attributes", write: func(_ *tar.Writer, raw io.Writer) error {
			target := bytes.Repeat([]byte("t"), 4000)
			return repeat(raw, 140000, joined(rawHeader('K', "", 4001), padded(append(target, 0)), rawHeader('2', "l", 0)))
		}},
		{name: "PAX headers of many records", write: func(_ *tar.Writer, raw io.Writer) error {
			pax := manyRecords("")
			head := append(rawHeader('x', "x", int64(len(pax))), padded(pax)...)
			for i := range 40 {
				if _, err := raw.Write(append(head, rawHeader('0', strconv.Itoa(i), 0)...)); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "many attributes of one file", limit: "extended attributes of one file", write: func(_ *tar.Writer, raw io.Writer) error {
			pax := manyRecords(paxXattr + "user.")
			_, err := raw.Write(bytes.Join([][]byte{rawHeader('x', "x", int64(len(pax))), padded(pax), rawHeader('0', "f", 0)}, nil))
			return err
		}},
		{name: "PAX headers without an entry", err: io.ErrUnexpectedEOF, write: func(_ *tar.Writer, raw io.Writer) error {
			pax := manyRecords("")
			head := append(rawHeader('x', "x", int64(len(pax))), padded(pax)...)
			for range 100 {
				if _, err := raw.Write(head); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "long names of GNU", err: layertar.ErrName, write: func(_ *tar.Writer, raw io.Writer) error {
			long := bytes.Repeat([]byte("x"), 1<<20-512)
			_, err := raw.Write(bytes.Join([][]byte{rawHeader('L', "", int64(len(long))), padded(long), rawHeader('K', "", int64(len(long))), padded(long), rawHeader('2', "f", 0)}, nil))
			return err
		}},
		{name: "old sparse map without end", err: errors.New("sparse map too long"), write: func(_ *tar.Writer, raw io.Writer) error {
			head := rawHeader('S', "f", 0)
			copy(head[257:], "ustar  \x00")
			copy(head[483:], fmt.Sprintf("%011o", 1<<32))
			head[482] = 1
			sign(head)
			more := make([]byte, tarBlock)
			for i := range 21 {
				copy(more[i*24:], "00000000000\x0000000000000\x00")
			}
			more[504] = 1
			for range 100000 {
				if _, err := raw.Write(head); err != nil {
					return err
				}
				head = more
			}
			return nil
		}},
		{name: "deep through symbolic links", limit: "levels of directories", write: func(w *tar.Writer, _ io.Writer) error {
			return errors.Join(
				w.WriteHeader(&tar.Header{Name: deep + "f", Mode: 0o644}),
				w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: deep}),
				w.WriteHeader(&tar.Header{Name: "s/" + deep + "f", Mode: 0o644}))
		}},
		{name: "symbolic links in a circle", err: layertar.ErrParent, write: func(w *tar.Writer, _ io.Writer) error {
			return errors.Join(
				w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b/" + strings.Repeat("x/../", 800)}),
				w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "b", Linkname: "a/" + strings.Repeat("x/../", 800)}),
				w.WriteHeader(&tar.Header{Name: "a/f", Mode: 0o644}))
		}},
		{name: "attributes of one directory again and again", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 20000, func(i int) tar.Header {
				return tar.Header{Typeflag: tar.TypeDir, Name: "d/", PAXRecords: paxXattrs("user.x", strings.Repeat("x", i%3900))}
			})
		}},
		{name: "whiteouts and marks", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 200000, func(i int) tar.Header {
				return tar.Header{Name: fmt.Sprintf("%d/%s", i/4, []string{".wh.a", ".wh.b", opaqueMark, ".wh.c"}[i%4])}
			})
		}},
		{name: "file in many pieces", write: func(w *tar.Writer, _ io.Writer) error {
			piece, zeros := bytes.Repeat([]byte("x"), 64<<10), make([]byte, 64<<10)
			if err := w.WriteHeader(&tar.Header{Name: "f", Size: 1 << 30, Mode: 0o644}); err != nil {
				return err
			}
			for range 1 << 13 {
				if _, err := w.Write(append(piece, zeros...)); err != nil {
					return err
				}
			}
			return nil
		}},
		// As large as real ones get: 400,000 files, long names, attributes.
		{name: "large layer", write: func(w *tar.Writer, _ io.Writer) error {
			random := rand.New(rand.NewPCG(1, 2))
			return each(w, 400000, func(i int) tar.Header {
				h := tar.Header{Name: fmt.Sprintf("usr/share/%d/%d-%s", i/2000, random.Uint64(), strings.Repeat("n", 100)), PAXRecords: paxXattrs("user.x", "value")}
				if i%4 == 0 {
					h.PAXRecords = paxXattrs("user.x", strings.Repeat("v", 200))
				}
				return h
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ext4 && fs.name != "ext4" {
				c.limit = ""
			}
			path := filepath.Join(t.TempDir(), "image")
			peak, limit, text := importApart(t, fs, path, c.write)
			t.Logf("%d MiB, %s", peak>>20, text)
			if peak > maxMemory*raceFactor {
				t.Errorf("took %d MiB of memory", peak>>20)
			}
			switch {
			case limit != c.limit:
				t.Errorf("bound %q exceeded, want %q: %s", limit, c.limit, text)
			case c.err != nil && !strings.Contains(text, c.err.Error()):
				t.Errorf("%s, want %v", text, c.err)
			case c.limit == "" && c.err == nil && text != "<nil>":
				t.Error(text)
			case text == "<nil>":
				if err := fs.check(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// importApart imports a tar in a process of its own.
func importApart(t *testing.T, fs format, path string, write bomb) (peak int64, limit, text string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), importInto+"="+path, importAs+"="+fs.name)
	if raceFactor == 1 {
		cmd.Env = append(cmd.Env, importCgroup+"="+memoryCgroup(t))
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buffered := bufio.NewWriterSize(in, 1<<20)
	w := tar.NewWriter(buffered)
	// Errors: the reader has refused it and gone.
	if write(w, buffered) == nil {
		_ = w.Flush()
		_ = buffered.Flush()
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: killed for its memory? %s", err, problems.String())
	}
	if _, err := fmt.Sscanf(out.String(), "%d\n", &peak); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	lines := strings.SplitN(strings.TrimSpace(out.String()), "\n", 3)
	return peak, lines[1], lines[2]
}
