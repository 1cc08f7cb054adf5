package luks2

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// leaf is one value of the header: a scalar, an array or an empty object.
type leaf struct {
	path  string // members' names with dots between, see joinPath
	value []byte // JSON, compact, objects in arrays with sorted members
}

// leavesOf lists the values of a tree, sorted by path, without layervault's own
// authentication token. Nothing else is left out: a later reader of the header may
// understand members that this program does not.
func leavesOf(doc object) ([]leaf, error) {
	var out []leaf
	var walk func(path string, v any) error
	walk = func(path string, v any) error {
		obj, is := v.(object)
		if is && path == "tokens" {
			// The section itself is always there: only its members are values.
			if obj = withoutImageTokens(obj); len(obj) == 0 {
				return nil
			}
		}
		if !is || len(obj) == 0 {
			text, err := encodeValue(v, is)
			if err == nil {
				out = append(out, leaf{path, text})
			}
			return err
		}
		for name, member := range obj {
			if err := walk(joinPath(path, name), member); err != nil {
				return err
			}
		}
		return nil
	}
	for name, member := range doc {
		if err := walk(escapePath.Replace(name), member); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b leaf) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

func encodeValue(v any, emptyObject bool) ([]byte, error) {
	if emptyObject {
		return []byte("{}"), nil
	}
	// Nearly every value is one of these; the encoder takes half of an authentication's time.
	switch v := v.(type) {
	case json.Number:
		return []byte(v), nil
	case string:
		if plain(v) {
			return append(append(append(make([]byte, 0, len(v)+2), '"'), v...), '"'), nil
		}
	}
	return encodeJSON(v)
}

// plain reports whether a string equals its JSON encoding without the quotes.
func plain(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// escapePath keeps dots in names apart from those between names, so that no two places
// have one path.
var escapePath = strings.NewReplacer("~", "~0", ".", "~1")

func joinPath(path, name string) string { return path + "." + escapePath.Replace(name) }

func withoutImageTokens(tokens object) object {
	out := make(object, len(tokens))
	for name, v := range tokens {
		if t, ok := v.(object); !ok || t["type"] != ImageToken {
			out[name] = v
		}
	}
	return out
}

// fixedFields are what a MAC covers beside the tree, in this order.
func fixedFields(bin binHeader, o Owner) []leaf {
	return []leaf{
		{"kind", []byte(o.Kind)}, {"id", []byte(o.ID)}, {"uuid", []byte(bin.uuid)},
		{"metadata_size", strconv.AppendInt(nil, bin.size, 10)},
	}
}

// macContext begins everything that a header's key authenticates.
const macContext = "layervault/2/header"

// canonical is the canonical text of a header: the context, the number of fixed values
// and of values in the tree, then path and value of each. A length of eight bytes
// precedes each item, so that no two headers have the same text.
func canonical(fixed, tree []leaf, next string) []byte {
	size := len(macContext) + len(next) + 5*8
	for _, l := range slices.Concat(fixed, tree) {
		size += len(l.path) + len(l.value) + 2*8
	}
	out := make([]byte, 0, size)
	put := func(s []byte) {
		out = binary.BigEndian.AppendUint64(out, uint64(len(s)))
		out = append(out, s...)
	}
	put([]byte(macContext))
	put([]byte(next))
	for _, part := range [][]leaf{fixed, tree} {
		out = binary.BigEndian.AppendUint64(out, uint64(len(part)))
		for _, l := range part {
			put([]byte(l.path))
			put(l.value)
		}
	}
	return out
}
