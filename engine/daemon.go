package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// ErrJSON: a file is not a JSON object.
var ErrJSON = errors.New("not a JSON object")

// daemonSettings is dockerd's daemon.json, with its keys in their order.
type daemonSettings struct{ members []member }

type member struct {
	name  string
	value json.RawMessage
}

// readDaemon reads a daemon.json. One that is absent or empty says nothing. Error: ErrJSON.
func readDaemon(path string) (*daemonSettings, error) {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &daemonSettings{}, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := parseDaemon(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// parseDaemon reads an object, key by key.
func parseDaemon(data []byte) (*daemonSettings, error) {
	d := &daemonSettings{}
	if len(bytes.TrimSpace(data)) == 0 {
		return d, nil
	}
	if !json.Valid(data) {
		return nil, ErrJSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, ErrJSON
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrJSON, err)
		}
		name, _ := token.(string) // the keys of a valid object are strings
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrJSON, err)
		}
		if d.find(name) != nil {
			return nil, fmt.Errorf("%w: duplicate key %q", ErrJSON, name)
		}
		d.members = append(d.members, member{name, value})
	}
	return d, nil
}

func (d *daemonSettings) find(name string) *member {
	for n := range d.members {
		if d.members[n].name == name {
			return &d.members[n]
		}
	}
	return nil
}

// text is the string of a key, "" for none.
func (d *daemonSettings) text(name string) (s string) {
	if m := d.find(name); m != nil {
		_ = json.Unmarshal(m.value, &s) // not a string is none
	}
	return s
}

// set sets a key to a value; below, to a key of the object that name has.
func (d *daemonSettings) set(value any, name string, below ...string) error {
	m := d.find(name)
	if len(below) > 0 {
		inner := &daemonSettings{}
		if m != nil {
			var err error
			if inner, err = parseDaemon(m.value); err != nil {
				return fmt.Errorf("key %q: %w", name, err)
			}
		}
		if err := inner.set(value, below[0], below[1:]...); err != nil {
			return err
		}
		value = inner
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if m != nil {
		m.value = data
		return nil
	}
	d.members = append(d.members, member{name, data})
	return nil
}

func (d *daemonSettings) remove(name string) (was bool) {
	for n, m := range d.members {
		if m.name == name {
			d.members = append(d.members[:n:n], d.members[n+1:]...)
			return true
		}
	}
	return false
}

// MarshalJSON implements json.Marshaler.
func (d *daemonSettings) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for n, m := range d.members {
		if n > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		out.Write(name)
		out.WriteByte(':')
		out.Write(m.value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// encode writes the object as people do, with an indent of two.
func (d *daemonSettings) encode() ([]byte, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
