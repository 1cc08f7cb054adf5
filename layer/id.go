package layer

import "fmt"

// maxIDLength bounds an id: docker's are 64 hex digits, an init layer's 69,
// BuildKit's 25. 128 leaves room for all of them, and with the prefix and suffix of
// the temporary names stays well under the 255 bytes of a file name.
const maxIDLength = 128

// ValidateID is the door every id passes once: 1 to 128 bytes of [A-Za-z0-9_.-],
// not beginning with a dot (so no "..", no hidden file, no temporary name). The
// error quotes the id, so control characters do not reach a terminal.
func ValidateID(id string) error {
	if id == "" {
		return fmt.Errorf("%w: id is empty", ErrBadID)
	}
	if len(id) > maxIDLength {
		return fmt.Errorf("%w: %d bytes, limit is %d", ErrBadID, len(id), maxIDLength)
	}
	if id[0] == '.' {
		return fmt.Errorf("%w %q: must not begin with a dot", ErrBadID, id)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return fmt.Errorf("%w %q: byte %d is not one of A-Z a-z 0-9 _ . -", ErrBadID, id, i)
		}
	}
	return nil
}
