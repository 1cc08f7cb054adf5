package dm

import (
	"fmt"
	"strings"
)

// The kernel splits a table's line at white space and takes a backslash for what protects
// some: a word from a header or a file that had either would add words of its own to the
// table, another device for example.

// checkWord wants a word of letters, digits and ":,()_-": every cipher and key type that
// dm-crypt knows is one.
func checkWord(what, word string) error {
	for _, c := range []byte(word) {
		if !isWordByte(c) {
			return fmt.Errorf("%w: %s %q contains a forbidden byte", ErrBadName, what, word)
		}
	}
	if word == "" {
		return fmt.Errorf("%w: %s is empty", ErrBadName, what)
	}
	return nil
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(":,()_-", c) >= 0
}

// checkDescription is checkWord for a key's description, which may have what names of
// files have beside: no white space, no control, no backslash, no quotes, ASCII only.
func checkDescription(word string) error {
	for _, c := range []byte(word) {
		if !isWordByte(c) && (c <= ' ' || c >= 0x7f || strings.IndexByte("\\\"'`", c) >= 0) {
			return fmt.Errorf("%w: key description %q contains a forbidden byte", ErrBadName, word)
		}
	}
	if word == "" {
		return fmt.Errorf("%w: key description is empty", ErrBadName)
	}
	return nil
}
