package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep the JSON may nest. json-c, which cryptsetup uses, stops at
// 32; a deeper header would be one that only we can read.
const maxDepth = 32

// maxValues bounds the number of JSON values in a header: in memory one value takes some
// hundred times its two bytes of text, and the text may be 4 MiB. 32 key slots with as many
// digests and segments need 1,500 values; the rest is room for tokens of other programs.
const maxValues = 20_000

// object is a JSON object as stored in the header. The header is kept as a tree, not as
// Go structs, so that a rewrite preserves all fields and tokens of other programs;
// numbers keep their text form (json.Number). Keys are case sensitive and the last of
// two equal keys counts, as in json-c.
type object = map[string]any

// textOf cuts the JSON text out of a JSON area: it must begin with '{', and from
// its end on everything must be NUL.
func textOf(area []byte) ([]byte, error) {
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return nil, errors.New("JSON area is not NUL-terminated")
	}
	text := area[:end]
	if len(bytes.TrimLeft(area[end:], "\x00")) != 0 {
		return nil, errors.New("trailing data after the JSON text")
	}
	if end < 2 || text[0] != '{' || text[end-1] != '}' {
		return nil, errors.New("JSON area must hold exactly one JSON object")
	}
	return text, nil
}

// decodeTree parses the JSON text of a header.
func decodeTree(text []byte) (object, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("JSON is not valid UTF-8") // a rewrite would change such bytes
	}
	d, values := extent(text)
	if d > maxDepth {
		return nil, fmt.Errorf("JSON nesting depth %d exceeds the limit of %d", d, maxDepth)
	}
	if values > maxValues {
		return nil, fmt.Errorf("JSON has %d values, limit is %d", values, maxValues)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var doc object
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("trailing data after the JSON object")
	}
	return doc, nil
}

// encodeTree is the inverse: compact, '/' and '<' as they are.
func encodeTree(doc object) ([]byte, error) { return encodeJSON(doc) }

func encodeJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("JSON: %w", err)
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// extent counts the deepest nesting, and the values (rather one too many than one too few),
// without parsing, so that the parser never sees input that exhausts stack or memory.
func extent(text []byte) (deepest, values int) {
	var now int
	inString := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == ',':
			values++
		case c == '{' || c == '[':
			values++
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest, values
}

// walker reads typed fields out of the tree. It keeps the first error, so that the
// validation reads as a list of fields; every later result is a zero value.
type walker struct{ err error }

func (w *walker) fail(path, format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...))
	}
}

// node is an object and where it is, for error messages.
type node struct {
	obj  object
	path string
}

func (n node) at(key string) string {
	if n.path == "" {
		return key
	}
	return n.path + "." + key
}

func (n node) has(key string) bool { _, ok := n.obj[key]; return ok }

func (w *walker) object(n node, key string) node {
	o, ok := n.obj[key].(object)
	if !ok {
		w.fail(n.at(key), "not an object")
	}
	return node{o, n.at(key)}
}

// str wants a string that is not empty.
func (w *walker) str(n node, key string) string {
	s, ok := n.obj[key].(string)
	if !ok || s == "" {
		w.fail(n.at(key), "not a string")
	}
	return s
}

// num wants a JSON integer in [lo, hi].
func (w *walker) num(n node, key string, lo, hi int64) int64 {
	num, ok := n.obj[key].(json.Number)
	if !ok {
		w.fail(n.at(key), "not a number")
		return 0
	}
	v, err := strconv.ParseInt(num.String(), 10, 64)
	if err != nil || v < lo || v > hi {
		w.fail(n.at(key), "%s is not an integer between %d and %d", num, lo, hi)
		return 0
	}
	return v
}

// decimal wants an unsigned 64 bit integer written as a string, as LUKS2 writes
// all offsets and sizes.
func (w *walker) decimal(n node, key string) uint64 {
	s := w.str(n, key)
	if w.err != nil {
		return 0
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			w.fail(n.at(key), "%q is not a decimal number", s)
			return 0
		}
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		w.fail(n.at(key), "%q is not a 64-bit number", s)
	}
	return v
}

// offset is a decimal that fits a file offset.
func (w *walker) offset(n node, key string) int64 {
	v := w.decimal(n, key)
	if v > math.MaxInt64 {
		w.fail(n.at(key), "%d exceeds the largest file offset", v)
		return 0
	}
	return int64(v)
}

// strs wants an array of strings.
func (w *walker) strs(n node, key string) []string {
	arr, ok := n.obj[key].([]any)
	if !ok {
		w.fail(n.at(key), "not an array")
		return nil
	}
	out := make([]string, 0, len(arr))
	for _, v := range arr {
		s, ok := v.(string)
		if !ok {
			w.fail(n.at(key), "contains a value that is not a string")
			return nil
		}
		out = append(out, s)
	}
	return out
}

// bytes wants base64.
func (w *walker) bytes(n node, key string) []byte {
	s := w.str(n, key)
	if w.err != nil {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		w.fail(n.at(key), "not valid base64")
	}
	return b
}

// ids lists the members of a section, whose keys are numbers below maxObjects.
func (w *walker) ids(n node) []int {
	if len(n.obj) > maxObjects {
		w.fail(n.path, "has %d members, limit is %d", len(n.obj), maxObjects)
		return nil
	}
	ids := make([]int, 0, len(n.obj))
	for id := range maxObjects {
		if n.has(strconv.Itoa(id)) {
			ids = append(ids, id)
		}
	}
	if len(ids) != len(n.obj) {
		w.fail(n.path, "has a member name that is not a number between 0 and %d", maxObjects-1)
	}
	return ids
}
