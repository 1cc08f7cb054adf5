package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"layervault/persist"
)

// RefuseIfUsed returns ErrRingLost if the tier's folder holds images, which must have
// been made under a ring that is now missing. Temporaries (".tmp-*") are leftovers of a
// crash and do not count, nor do foreign files: EVE keeps files of other formats in the
// same folders.
func RefuseIfUsed(tier string) error {
	for sub, holds := range map[string]func(path string, e fs.DirEntry) (bool, error){
		"layers":  isLayer,
		"volumes": isVolume,
		"disks":   isDisk,
	} {
		dir := filepath.Join(tier, sub)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("create key ring: %w", err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			ours, err := holds(filepath.Join(dir, e.Name()), e)
			if err != nil {
				return fmt.Errorf("create key ring: %w", err)
			}
			if ours {
				return fmt.Errorf("%w: %s does not exist, and %s holds images (%s and others) of that ring",
					ErrRingLost, filepath.Join(tier, FileName), dir, e.Name())
			}
		}
	}
	return nil
}

// isLayer accepts every folder: a layer's image may be missing or damaged, and its record
// repaired later.
func isLayer(_ string, e fs.DirEntry) (bool, error) {
	return e.IsDir() && e.Name() != "lost+found", nil
}

// isVolume accepts any file with a volume's name: a damaged header may be restored later.
// With other names only an image counts.
func isVolume(path string, e fs.DirEntry) (bool, error) {
	switch {
	case !e.Type().IsRegular() || persist.IsEVEName(e.Name()):
		return false, nil
	case persist.IsVolumeName(e.Name()):
		return true, nil
	}
	return hasLUKSHeader(path)
}

func isDisk(path string, e fs.DirEntry) (bool, error) {
	if !e.Type().IsRegular() {
		return false, nil
	}
	return hasLUKSHeader(path)
}

// The magics of the two copies of a LUKS2 header, and where the second may begin, in bytes
// (LUKS2 on-disk format, 2.1): one copy is enough to know an image by.
var (
	luksFirst    = []byte("LUKS\xba\xbe")
	luksSecond   = []byte("SKUL\xba\xbe")
	secondCopies = []int64{0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000}
)

func hasLUKSHeader(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it went since the folder was read
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	begins := func(at int64, magic []byte) (bool, error) {
		head := make([]byte, len(magic))
		_, err := f.ReadAt(head, at)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return bytes.Equal(head, magic), err
	}
	if is, err := begins(0, luksFirst); is || err != nil {
		return is, err
	}
	for _, at := range secondCopies {
		if is, err := begins(at, luksSecond); is || err != nil {
			return is, err
		}
	}
	return false, nil
}
