package tpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// numbered is the kernel's name of a resource-managed TPM. Which number one gets depends on
// the order in which drivers find the chips, so it may change with a kernel.
var numbered = regexp.MustCompile(`^tpmrm[0-9]+$`)

// Locate gives the path of the TPM: path itself, or where a numbered device is missing the
// only one that has another number. Error: ErrNoTPM, which names what there is.
func Locate(path string) (string, error) {
	if path == "" {
		path = DefaultPath
	}
	_, err := os.Stat(path)
	if err == nil {
		return path, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	var others []string
	if numbered.MatchString(filepath.Base(path)) {
		// The pattern makes sense, and there is no other error.
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "tpmrm*"))
		for _, other := range found {
			if numbered.MatchString(filepath.Base(other)) {
				others = append(others, other)
			}
		}
	}
	switch len(others) {
	case 0:
		return "", fmt.Errorf("%w: %s does not exist; the TPM may be off in the firmware, or tpm_tis or tpm_crb not loaded", ErrNoTPM, path)
	case 1:
		return others[0], nil
	}
	return "", fmt.Errorf("%w: %s does not exist, %w: %q", ErrNoTPM, path, ErrManyTPMs, others)
}
