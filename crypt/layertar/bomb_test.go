package layertar_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"layervault/crypt/fswriter"
	"layervault/crypt/layertar"
)

// maxMemory is what an import may take, in bytes: of a process of its own, all included.
const maxMemory = 96 << 20

// cgroupMemory is the memory of the control group that an import is put in, page cache
// included.
const cgroupMemory = 128 << 20

// The environment of the process that imports.
const (
	importInto   = "LAYERVAULT_TEST_IMPORT"
	importAs     = "LAYERVAULT_TEST_FORMAT"
	importCgroup = "LAYERVAULT_TEST_CGROUP"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(importInto); path != "" {
		os.Exit(importStdin(path, os.Getenv(importCgroup)))
	}
	goleak.VerifyTestMain(m)
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
	result, err := formatOf(os.Getenv(importAs)).fromTar(context.Background(), os.Stdin, f, layertar.Options{Dir: "diff"})
	if err == nil {
		err = f.Truncate(result.Size)
	}
	limit, ok := errors.AsType[*layertar.LimitError](err)
	if !ok {
		limit = &layertar.LimitError{}
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

// The bounds themselves, not more.
func TestFromTarBounds(t *testing.T) { eachFormat(t, testFromTarBounds) }

func testFromTarBounds(t *testing.T, fs format) {
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
		{"deepest directory", item{tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("d/", fswriter.MaxDepth-1)}, ""}, 0},
		{"attributes that fit", item{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: value(200)}, ""}, 0},
		{"too many attributes", item{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: value(256)}, ""}, fswriter.MaxXattrs},
		{"too many attributes of a directory", item{tar.Header{Typeflag: tar.TypeDir, Name: "f", PAXRecords: value(256)}, ""}, fswriter.MaxXattrs},
	} {
		_, err := fs.fromTar(t.Context(), bytes.NewReader(makeTar(t, c.item)), discard{}, layertar.Options{Dir: "diff"})
		limit, ok := errors.AsType[*layertar.LimitError](err)
		if ok != (c.limit != 0) || ok && limit.Limit != c.limit {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
