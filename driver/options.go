package driver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
)

// optSize is the one storage option: the size of a writable layer, as dockerd's
// --storage-opt layervault.size=20G for all and docker run's --storage-opt size=20G
// for one container.
const optSize = "size"

// knownOptions is what an error about an unknown one lists.
var knownOptions = []string{optSize}

// parseInitOpts reads the options of Init, each "key=value" or
// "layervault.key=value".
func parseInitOpts(opts []string) (size int64, err error) {
	for _, opt := range opts {
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			return 0, fmt.Errorf("storage option %q: must be key=value", opt)
		}
		key = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(key)), Name+".")
		if size, err = parseOption(key, value); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// parseCreateOpts reads the storage options of one layer; 0 when none is given.
func parseCreateOpts(opts *CreateOpts) (size int64, err error) {
	if opts == nil {
		return 0, nil
	}
	for key, value := range opts.StorageOpt {
		if size, err = parseOption(strings.ToLower(key), value); err != nil {
			return 0, err
		}
	}
	return size, nil
}

func parseOption(key, value string) (size int64, err error) {
	if !slices.Contains(knownOptions, key) {
		return 0, fmt.Errorf("%w %q: known options: %s", ErrUnknownOption, key, strings.Join(knownOptions, ", "))
	}
	size, err = units.RAMInBytes(strings.TrimSpace(value))
	if err != nil {
		return 0, fmt.Errorf("%w: storage option %s=%q: must be a number with a unit, such as 20G: %w", ErrBadSize, key, value, err)
	}
	if size < MinSize {
		return 0, fmt.Errorf("%w: storage option %s=%q: minimum is %s", ErrBadSize, key, value, units.BytesSize(MinSize))
	}
	return size, nil
}
