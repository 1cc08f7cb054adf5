package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func backing(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAttach(t *testing.T) {
	const size = 1 << 20
	for _, o := range []Options{
		{},
		{ReadOnly: true},
		{DirectIO: true},
		{DirectIO: true, BlockSize: 4096},
		{DirectIO: true, BlockSize: 4096, ReadOnly: true},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			f := backing(t, size)
			d, err := Attach(t.Context(), f, o)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unix.IoctlGetInt(int(d.Fd()), unix.BLKSSZGET); err != nil || o.BlockSize != 0 && got != o.BlockSize {
				t.Errorf("block size %d, %v", got, err)
			}
			want := bytes.Repeat([]byte("layer"), size/5+1)[:size]
			if o.ReadOnly {
				if _, err := d.WriteAt(want, 0); err == nil {
					t.Error("wrote to a read-only device")
				}
			} else {
				if _, err := d.WriteAt(want, 0); err != nil {
					t.Fatal(err)
				}
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(f.Name())
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("file has other content than was written, %v", err)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if path := attachedTo(t, d.Number); path == f.Name() {
				t.Errorf("loop%d is still attached after its last user closed it", d.Number)
			}
		})
	}
}

// attachedTo reads the file name of a loop device from sysfs, "" where it is free.
func attachedTo(t *testing.T, n int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil && !errors.Is(err, unix.ENXIO) {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

// Each of many that attach at once gets a device of its own, with its own content.
func TestAttachAtOnce(t *testing.T) {
	const workers = 40
	devices := make([]*Device, workers)
	var wg sync.WaitGroup
	for i := range workers {
		f := backing(t, 4096)
		if _, err := fmt.Fprintf(f, "image %03d", i); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			d, err := Attach(t.Context(), f, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			devices[i] = d
		})
	}
	wg.Wait()
	numbers := map[int]bool{}
	for i, d := range devices {
		if d == nil {
			continue
		}
		got := make([]byte, 9)
		if _, err := d.ReadAt(got, 0); err != nil || string(got) != fmt.Sprintf("image %03d", i) {
			t.Errorf("loop%d has %q, want image %03d, %v", d.Number, got, i, err)
		}
		if numbers[d.Number] {
			t.Errorf("loop%d was given twice", d.Number)
		}
		numbers[d.Number] = true
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAttachFails(t *testing.T) {
	f := backing(t, 4096)
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if d, err := Attach(ctx, f, Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v", d, err)
		}
	})
	t.Run("bad block size", func(t *testing.T) {
		if d, err := Attach(t.Context(), f, Options{BlockSize: 100}); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v, %v", d, err)
		}
	})
	t.Run("closed file", func(t *testing.T) {
		g, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		_ = g.Close()
		if d, err := Attach(t.Context(), g, Options{}); !errors.Is(err, unix.EBADF) {
			t.Errorf("%v, %v", d, err)
		}
	})
}
