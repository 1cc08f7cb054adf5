package volume

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// ID names one generation of a volume, as EVE does.
type ID struct {
	UUID       string // in lower case, with dashes
	Generation int64  // from 0 on
}

// String is the volume's file name: <uuid>#<generation>.
func (id ID) String() string { return id.UUID + "#" + strconv.FormatInt(id.Generation, 10) }

// ParseID reads what String wrote, and nothing else.
func ParseID(s string) (ID, error) {
	left, right, ok := strings.Cut(s, "#")
	if !ok {
		return ID{}, fmt.Errorf("%w: %q is not <uuid>#<generation>", ErrBadName, s)
	}
	generation, err := strconv.ParseInt(right, 10, 64)
	if err != nil {
		return ID{}, fmt.Errorf("%w: generation in %q: %w", ErrBadName, s, err)
	}
	id := ID{left, generation}
	if err := id.check(); err != nil {
		return ID{}, err
	}
	if id.String() != s { // such as "+1" or "01"
		return ID{}, fmt.Errorf("%w: %q must be written %q", ErrBadName, s, id)
	}
	return id, nil
}

func (id ID) check() error {
	if u, err := uuid.Parse(id.UUID); err != nil || u.String() != id.UUID {
		return fmt.Errorf("%w: %q is not a UUID in lower case with dashes", ErrBadName, id.UUID)
	}
	if id.Generation < 0 {
		return fmt.Errorf("%w: generation %d is negative", ErrBadName, id.Generation)
	}
	return nil
}

// maxName bounds names in bytes: a name is part of a directory's name, and of a token
// that shares 12 KiB of a LUKS2 header.
const maxName = 128

// nameForm is docker's rule for names of volumes, without the length.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// ValidateName rejects invalid names of volumes, platforms and revisions: ErrBadName.
func ValidateName(what, name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return fmt.Errorf("%w: %s %q: must be 1 to %d characters of A-Z a-z 0-9 _ . -, the first a letter or digit", ErrBadName, what, name, maxName)
	}
	return nil
}

// diskNameForm also has the names of disks that are part of another one: Pantavisor begins
// them with an underscore (pv_disk_is_internal).
var diskNameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// ValidateDiskName rejects invalid names and aliases of disks: ErrBadName.
func ValidateDiskName(name string) error {
	if len(name) > maxName || !diskNameForm.MatchString(name) {
		return fmt.Errorf("%w: disk %q: must be 1 to %d characters of A-Z a-z 0-9 _ . -, the first neither . nor -", ErrBadName, name, maxName)
	}
	return nil
}

// minVolumeName is docker's own minimum for volumes (moby, daemon/names), which docker does
// not enforce for plugins.
const minVolumeName = 2

// validateNewName rejects names for new volumes. Docker's command line takes a single letter
// for a Windows drive: -v a:/data makes an unencrypted volume at the path "a:/data" in the
// container, without a warning.
func validateNewName(name string) error {
	if err := ValidateName("volume", name); err != nil {
		return err
	}
	if len(name) < minVolumeName {
		return fmt.Errorf("%w: volume %q: must have at least %d characters: docker run -v %s:/data would take one letter for a Windows drive and store the data unencrypted",
			ErrBadName, name, minVolumeName, name)
	}
	return nil
}
