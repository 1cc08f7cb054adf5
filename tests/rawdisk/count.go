// Package rawdisk searches disks that are sparse files.
package rawdisk

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// readSize is how much is read at once.
const readSize = 8 << 20

// Count says how often a disk has marker. What was never written, the holes, is not read.
func Count(disk, marker string) (n int, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, readSize)
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return n, err
		}
		got, err := f.ReadAt(buf[:min(readSize, to-from)], from)
		if err != nil {
			return n, err
		}
		n += bytes.Count(buf[:got], []byte(marker))
		if at = from + int64(got); at < to {
			at -= int64(len(marker) - 1) // one may lie across two reads
		}
	}
}
