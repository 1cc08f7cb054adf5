package ext4

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
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

	"layervault/crypt/ext4/image"
)

// maxMemory is what an import may take, in bytes: of a process of its own, all included.
const maxMemory = 96 << 20

// cgroupMemory is the memory of the control group that an import is put in, page cache
// included.
const cgroupMemory = 128 << 20

// The environment of the process that imports.
const (
	importInto   = "LAYERVAULT_TEST_IMPORT"
	importCgroup = "LAYERVAULT_TEST_CGROUP"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(importInto); path != "" {
		os.Exit(importStdin(path, os.Getenv(importCgroup)))
	}
	os.Exit(m.Run())
}

// importStdin imports what comes from standard input, and says on standard output the
// most memory it took, in bytes, and the error.
func importStdin(path, cgroup string) int {
	if cgroup != "" {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result, err := FromTar(context.Background(), os.Stdin, f, TarOptions{Dir: "diff"})
	if err == nil {
		err = f.Truncate(result.Size)
	}
	limit, ok := errors.AsType[*LimitError](err)
	if !ok {
		limit = &LimitError{}
	}
	peak, readErr := peakMemory()
	if readErr != nil {
		fmt.Fprintln(os.Stderr, readErr)
		return 1
	}
	fmt.Printf("%d\n%s\n%v\n", peak, limit.What, err)
	return 0
}

// peakMemory is VmHWM of this process. (Maxrss of wait4 counts the parent, too.)
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmHWM")
}

// memoryCgroup makes a control group of cgroupMemory; "" where this process may not.
func memoryCgroup(t *testing.T) string {
	t.Helper()
	for _, c := range []struct{ root, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
		{"/sys/fs/cgroup", "memory.max"},
	} {
		if _, err := os.Stat(filepath.Join(c.root, "cgroup.procs")); err != nil {
			continue // not mounted
		}
		dir, err := os.MkdirTemp(c.root, "layervault-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		f, err := os.OpenFile(filepath.Join(dir, c.file), os.O_WRONLY, 0)
		if err != nil {
			continue // the group has no memory controller
		}
		_, err = f.WriteString(strconv.Itoa(cgroupMemory))
		if errors.Join(err, f.Close()) == nil {
			return dir
		}
	}
	return ""
}

// bomb writes a tar; an error of the writer means that the reader has seen enough.
type bomb func(w *tar.Writer, raw io.Writer) error

// each writes n headers without content.
func each(w *tar.Writer, n int, header func(i int) tar.Header) error {
	for i := range n {
		h := header(i)
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	return nil
}

func repeat(w io.Writer, n int, b []byte) error {
	for range n {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func paxXattrs(name string, value string) map[string]string {
	return map[string]string{paxXattr + name: value}
}

// rawHeader is a ustar header that package tar would not write.
func rawHeader(kind byte, name string, size int64) []byte {
	b := make([]byte, tarBlock)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	if size < 1<<33 {
		copy(b[124:], fmt.Sprintf("%011o\x00", size))
	} else {
		binary.BigEndian.PutUint64(b[128:], uint64(size))
		b[124] = 0x80
	}
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sign(b)
	return b
}

func sign(b []byte) {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
}

func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&(tarBlock-1))...) }

// paxRecord is one record of a PAX header.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for n != len(strconv.Itoa(n))+len(key)+len(value)+3 {
		n = len(strconv.Itoa(n)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// manyRecords is a PAX header of nearly 1 MiB, which is the most that package tar takes.
func manyRecords(prefix string) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20-64; i++ {
		b.WriteString(paxRecord(prefix+strconv.FormatInt(int64(i), 36), ""))
	}
	return b.Bytes()
}

// A tar costs less than 96 MiB of memory whatever it holds, and exceeds no bound without
// being told which.
func TestFromTarMemory(t *testing.T) {
	deep := strings.Repeat("d/", 2000)
	for _, c := range []struct {
		name  string
		limit string // of the LimitError
		err   error  // another that is expected: its text
		write bomb
	}{
		// Those of the security review.
		{name: "deep paths", limit: "directories without an entry of their own", write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 300, func(i int) tar.Header { return tar.Header{Name: fmt.Sprintf("%d/%sf", i, deep)} })
		}},
		{name: "directories with large attributes", err: ErrXattr, write: func(w *tar.Writer, _ io.Writer) error {
			return each(w, 300, func(i int) tar.Header {
				return tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("%d/", i), PAXRecords: paxXattrs("user.x", strings.Repeat("x", 1<<20-100))}
			})
		}},
		{name: "hole of 2^60", err: ErrSparse, write: func(_ *tar.Writer, raw io.Writer) error {
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
		{name: "every other file replaced", limit: "pieces of space left by replaced files", write: func(w *tar.Writer, _ io.Writer) error {
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
		{name: "long names of GNU", err: ErrName, write: func(_ *tar.Writer, raw io.Writer) error {
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
		{name: "deep through symbolic links", limit: "directories below each other", write: func(w *tar.Writer, _ io.Writer) error {
			return errors.Join(
				w.WriteHeader(&tar.Header{Name: deep + "f", Mode: 0o644}),
				w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: deep}),
				w.WriteHeader(&tar.Header{Name: "s/" + deep + "f", Mode: 0o644}))
		}},
		{name: "symbolic links in a circle", err: ErrParent, write: func(w *tar.Writer, _ io.Writer) error {
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
			path := filepath.Join(t.TempDir(), "image")
			peak, limit, text := importApart(t, path, c.write)
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
				if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
					t.Errorf("e2fsck: %v\n%s", err, out)
				}
			}
		})
	}
}

// importApart imports a tar in a process of its own.
func importApart(t *testing.T, path string, write bomb) (peak int64, limit, text string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), importInto+"="+path)
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

// The bounds themselves, not more.
func TestFromTarBounds(t *testing.T) {
	value := func(n int) map[string]string {
		records := map[string]string{}
		for i := range n {
			records[fmt.Sprintf("%suser.%02x", paxXattr, i)] = ""
		}
		return records
	}
	for _, c := range []struct {
		name  string
		item  item
		limit int64
	}{
		{"deepest directory", item{tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("d/", image.MaxDepth-1)}, ""}, 0},
		{"attributes that fit", item{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: value(200)}, ""}, 0},
		{"too many attributes", item{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: value(256)}, ""}, image.MaxXattrs},
		{"too many attributes of a directory", item{tar.Header{Typeflag: tar.TypeDir, Name: "f", PAXRecords: value(256)}, ""}, image.MaxXattrs},
	} {
		_, err := FromTar(t.Context(), bytes.NewReader(makeTar(t, c.item)), discard{}, TarOptions{Dir: "diff"})
		limit, ok := errors.AsType[*LimitError](err)
		if ok != (c.limit != 0) || ok && limit.Limit != c.limit {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
