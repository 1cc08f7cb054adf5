package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// member is one member of a JSON object.
type member struct {
	key   string
	value json.RawMessage
}

// object reads a JSON object in its order. A key that is there twice is an error:
// encoding/json would take the last, Pantavisor takes the first, and pvr writes none.
func object(text []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	first, err := dec.Token()
	if err != nil {
		return nil, syntax(err)
	}
	if first != json.Delim('{') {
		return nil, fmt.Errorf("expected a JSON object, got %s", kindOf(text))
	}
	var members []member
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, syntax(err)
		}
		key, ok := name.(string)
		if !ok {
			return nil, fmt.Errorf("expected a key, got %v", name)
		}
		if slices.ContainsFunc(members, func(m member) bool { return m.key == key }) {
			return nil, fmt.Errorf("duplicate key %q", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntax(err)
		}
		members = append(members, member{key, value})
	}
	if _, err := dec.Token(); err != nil {
		return nil, syntax(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing data after the object")
	}
	return members, nil
}

// lookup finds a member; nil where there is none.
func lookup(members []member, key string) json.RawMessage {
	for _, m := range members {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

func array(text []byte) ([]json.RawMessage, error) {
	var out []json.RawMessage
	if kindOf(text) != "an array" {
		return nil, fmt.Errorf("expected a JSON array, got %s", kindOf(text))
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, syntax(err)
	}
	return out, nil
}

// str reads a JSON string that could be a name, a path or options: none holds control
// characters.
func str(text []byte) (string, error) {
	if kindOf(text) != "a string" {
		return "", fmt.Errorf("expected a string, got %s", kindOf(text))
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return "", syntax(err)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%q holds a control character", s)
	}
	return s, nil
}

func syntax(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not JSON: %w", err)
}

// kindOf names a JSON value's type for people.
func kindOf(text []byte) string {
	text = bytes.TrimLeft(text, " \t\r\n")
	if len(text) == 0 {
		return "nothing"
	}
	switch text[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}
