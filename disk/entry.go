package disk

import "fmt"

// diskEntry is one disk of the file, for its type to read the keys of its own.
type diskEntry struct {
	p       *parser
	name    string // such as disks[1] "secrets"
	members []member
}

func (e diskEntry) warn(format string, args ...any) { e.p.warn(e.name, format, args...) }

// text reads a string; "" where there is none.
func (e diskEntry) text(key string) (string, error) {
	value := lookup(e.members, key)
	if value == nil {
		return "", nil
	}
	text, err := str(value)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", key, err)
	}
	return text, nil
}

// yes reads Pantavisor's way to say true; all else is false.
func (e diskEntry) yes(key string) bool {
	value := lookup(e.members, key)
	if value == nil {
		return false
	}
	text, err := str(value)
	switch {
	case err != nil:
		e.warn("key %s: read as no: %v", key, err)
	case text == "yes":
		return true
	case text != "no" && text != "":
		e.warn("key %s: %q is neither yes nor no, read as no", key, text)
	}
	return false
}
