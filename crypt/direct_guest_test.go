//go:build guest

package crypt_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// directSector is what databases and virtual machines' disks write at least, past the cache.
const directSector = 512

// TestDirectIO: an image of 512 byte sectors takes direct I/O of 512 bytes, in its file system
// and through overlayfs; one of 4096 byte sectors refuses that with EINVAL.
func TestDirectIO(t *testing.T) {
	for _, tt := range []struct {
		sector int // 0 for the default
		want   error
	}{{512, nil}, {4096, unix.EINVAL}, {0, unix.EINVAL}} {
		t.Run(fmt.Sprint(tt.sector), func(t *testing.T) {
			upper, lower := device(t, writable), device(t, readOnly)
			upper.making.Params.SectorSize, lower.making.Params.SectorSize = tt.sector, tt.sector
			must(t, upper.create(t.Context(), 32<<20))
			_, err := lower.load(t.Context(), bytes.NewReader(layerTar(t, map[string]string{"below": strings.Repeat("below", 2000)})))
			must(t, err)
			for _, d := range []*testImage{upper, lower} {
				must(t, d.get(t.Context()))
				t.Cleanup(func() { must(t, d.put()) })
			}
			at := t.TempDir()
			up := upper.mnt
			must(t, unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s/diff,upperdir=%s/diff,workdir=%s/work", lower.mnt, up, up)))
			t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
			for name, dir := range map[string]string{"file system": filepath.Join(up, "work"), "overlay": at} {
				if err := directWrite(filepath.Join(dir, "direct")); !errors.Is(err, tt.want) {
					t.Errorf("%s: writing 512 bytes at 512: %v, want %v", name, err, tt.want)
				}
			}
			if err := directRead(filepath.Join(at, "below"), directSector); !errors.Is(err, tt.want) {
				t.Errorf("reading 512 bytes of a sealed layer: %v, want %v", err, tt.want)
			}
			must(t, directRead(filepath.Join(at, "below"), 4096))
		})
	}
}

// direct is a buffer at an address that direct I/O takes.
func direct(size int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
}

// directWrite writes the second sector of a file, and reads it back past the cache.
func directWrite(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b, err := direct(directSector)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	text := bytes.Repeat([]byte("direct! "), directSector/8)
	copy(b, text)
	if _, err := f.WriteAt(b, directSector); err != nil {
		return err
	}
	clear(b)
	if _, err := f.ReadAt(b, directSector); err != nil {
		return err
	}
	if !bytes.Equal(b, text) {
		return errors.New("read something else than was written")
	}
	return nil
}

func directRead(name string, size int) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	b, err := direct(size)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	_, err = f.ReadAt(b, int64(size))
	return err
}
