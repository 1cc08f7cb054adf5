package vault

import (
	"errors"
	"fmt"
	"io/fs"

	"layervault/crypt"
)

// ChangedLayers names the open layers in which the kernel has read a block that was changed on the
// disk; an open image that is none of these layers is named by its LUKS UUID. The error says the
// same, one line each, and is crypt.ErrCorrupt. nil where the caller may not ask the kernel.
func ChangedLayers(rows []LayerRow) ([]string, error) {
	uuids, err := crypt.Corrupted()
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return changedLayers(rows, uuids, err)
}

func changedLayers(rows []LayerRow, uuids []string, err error) ([]string, error) {
	names := make([]string, 0, len(uuids))
	errs := []error{err}
	for _, uuid := range uuids {
		title, name := "image", uuid
		for _, r := range rows {
			if r.UUID == uuid {
				title, name = "layer", r.Layer
			}
		}
		names = append(names, name)
		errs = append(errs, fmt.Errorf("%s %s: %w", title, name, crypt.ErrCorrupt))
	}
	return names, errors.Join(errs...)
}
