package crypt

import (
	"errors"
	"fmt"
	"strings"

	"layervault/crypt/dm"
)

// Corrupted lists the LUKS2 UUIDs of open images in which dm-verity has found a block that is not
// what it was, since they were opened. It asks the kernel alone and never waits for a disk. Without
// device-mapper nothing is open.
func Corrupted() ([]string, error) {
	control, err := dm.Open()
	if errors.Is(err, dm.ErrUnavailable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	names, err := control.List()
	if err != nil {
		return nil, err
	}
	var found []string
	var errs []error
	for _, n := range names {
		id, is := strings.CutPrefix(n.Name, VerityName(""))
		if !is {
			continue
		}
		bad, err := isCorrupted(control, n.Name)
		if bad {
			found = append(found, id)
		}
		errs = append(errs, err)
	}
	return found, errors.Join(errs...)
}

// isCorrupted asks a dm-verity device. One that went away meanwhile is not.
func isCorrupted(control *dm.Control, name string) (bool, error) {
	status, err := control.Status(name)
	if errors.Is(err, dm.ErrNotExist) {
		return false, nil
	}
	return len(status) == 1 && dm.VerityCorrupted(status[0]), err
}

// blame says that an image could not be used because of changed blocks, where that is so.
func (v *verified) blame(err error) error {
	if v.content.tree == nil {
		return err
	}
	control, openErr := dm.Open()
	if openErr != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	if bad, _ := isCorrupted(control, VerityName(v.header.UUID())); !bad {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
