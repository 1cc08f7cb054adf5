package rawdisk

import (
	"os"
	"path/filepath"
	"testing"
)

// Markers at the beginning, across two reads, at the end of what is written, and behind a hole.
func TestCount(t *testing.T) {
	const marker = "a marker to look for"
	disk := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 2*readSize)
	for i := range data {
		data[i] = byte(i%251 + 1)
	}
	for _, at := range []int{0, readSize - 7, len(data) - len(marker)} {
		copy(data[at:], marker)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(marker), 1<<30); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(2 << 30); err != nil {
		t.Fatal(err)
	}
	if n, err := Count(disk, marker); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := Count(disk, marker+"!"); n != 0 || err != nil {
		t.Errorf("of another marker: %d, %v", n, err)
	}
}
