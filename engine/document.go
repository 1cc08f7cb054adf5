package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ErrEdit: a setting cannot be put into a file without changing lines that are not its own.
var ErrEdit = errors.New("file cannot be edited automatically")

// ErrTOML: a file is not TOML.
var ErrTOML = errors.New("not valid TOML")

// document is a TOML file that is edited in place.
type document struct {
	text   []byte
	tree   map[string]any
	tables []table // the first one is the top level
}

// table is a piece of a document: a header with the keys that follow it.
type table struct {
	path   []string
	array  bool // [[path]]
	end    int  // where a key of its own can be put: the start of a line, or the end of the text
	indent string
	pairs  []pair
}

// pair is a key with its value.
type pair struct {
	path       []string // in full
	start, end int      // of the value
}

// parse reads a document. Error: ErrTOML.
func parse(text []byte) (*document, error) {
	d := &document{text: bytes.Clone(text), tables: []table{{}}}
	if err := toml.Unmarshal(d.text, &d.tree); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTOML, err)
	}
	if d.tree == nil {
		d.tree = map[string]any{}
	}
	var p unstable.Parser
	p.Reset(d.text)
	for p.NextExpression() {
		d.add(p.Expression())
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTOML, err)
	}
	return d, nil
}

// add takes up one expression of the parser.
func (d *document) add(n *unstable.Node) {
	var path []string
	var key unstable.Range
	for it := n.Key(); it.Next(); {
		path = append(path, string(it.Node().Data))
		key = it.Node().Raw
	}
	at := &d.tables[len(d.tables)-1]
	switch n.Kind {
	case unstable.Table, unstable.ArrayTable:
		next := d.lineAfter(int(key.Offset + key.Length))
		d.tables = append(d.tables, table{path: path, array: n.Kind == unstable.ArrayTable, end: next, indent: d.indentAt(int(key.Offset))})
	case unstable.KeyValue:
		end := int(n.Raw.Offset + n.Raw.Length)
		start := int(key.Offset + key.Length)
		start += bytes.IndexByte(d.text[start:end], '=') + 1
		start += len(d.text[start:end]) - len(bytes.TrimLeft(d.text[start:end], " \t"))
		at.pairs = append(at.pairs, pair{path: slices.Concat(at.path, path), start: start, end: end})
		at.end, at.indent = d.lineAfter(end), d.indentAt(int(n.Raw.Offset))
	}
}

// lineAfter is where the line after a place begins.
func (d *document) lineAfter(at int) int {
	if n := bytes.IndexByte(d.text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(d.text)
}

// indentAt is the white space at the start of the line of a place.
func (d *document) indentAt(at int) string {
	line := d.text[bytes.LastIndexByte(d.text[:at], '\n')+1 : at]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// setting is one value of a file: a string, an int64, or a list of strings as []any.
type setting struct {
	path  []string
	value any
	more  bool // value is a table, map[string]any, to be added to an array of tables
}

// edit puts settings into a document. Error: ErrEdit.
func (d *document) edit(settings []setting) (*document, error) {
	now := d
	want := copyOf(d.tree)
	for _, s := range settings {
		if err := put(want, s); err != nil {
			return nil, err
		}
		next, err := parse(now.with(s))
		if err != nil {
			return nil, fmt.Errorf("%w: setting %s: %s", ErrEdit, dotted(s.path), err.Error()) // the result is no TOML, the file is
		}
		now = next
	}
	if !reflect.DeepEqual(now.tree, want) {
		return nil, fmt.Errorf("%w: the result would mean something else", ErrEdit)
	}
	return now, nil
}

// with is the text with one setting more.
func (d *document) with(s setting) []byte {
	last := len(s.path) - 1
	if s.more {
		text := d.closed() + "\n[[" + dotted(s.path) + "]]\n"
		fields, _ := s.value.(map[string]any) // put has checked it
		for _, name := range sortedKeys(fields) {
			text += "  " + keyOf(name) + " = " + literal(fields[name]) + "\n"
		}
		return []byte(text)
	}
	for _, t := range d.tables {
		for _, p := range t.pairs {
			if !t.array && slices.Equal(p.path, s.path) {
				return slices.Concat(d.text[:p.start], []byte(literal(s.value)), d.text[p.end:])
			}
		}
	}
	line := keyOf(s.path[last]) + " = " + literal(s.value) + "\n"
	for n, t := range d.tables {
		if t.array || !slices.Equal(t.path, s.path[:last]) {
			continue
		}
		if len(t.pairs) == 0 && n > 0 {
			t.indent += "  "
		}
		head := string(d.text[:t.end])
		if head != "" && !strings.HasSuffix(head, "\n") {
			head += "\n"
		}
		return []byte(head + t.indent + line + string(d.text[t.end:]))
	}
	return []byte(d.closed() + "\n[" + dotted(s.path[:last]) + "]\n  " + line)
}

// closed is the text with a line end at its end.
func (d *document) closed() string {
	if len(d.text) > 0 && d.text[len(d.text)-1] != '\n' {
		return string(d.text) + "\n"
	}
	return string(d.text)
}

// put puts a setting into a tree.
func put(tree map[string]any, s setting) error {
	last := len(s.path) - 1
	for _, name := range s.path[:last] {
		if tree[name] == nil {
			tree[name] = map[string]any{}
		}
		below, ok := tree[name].(map[string]any)
		if !ok {
			return fmt.Errorf("%w: %s is not a table", ErrEdit, name)
		}
		tree = below
	}
	name := s.path[last]
	if !s.more {
		tree[name] = s.value
		return nil
	}
	list, ok := tree[name].([]any)
	if tree[name] != nil && !ok {
		return fmt.Errorf("%w: %s is not a list", ErrEdit, name)
	}
	tree[name] = append(list, s.value)
	return nil
}

// lookup is the value at a path of a tree, nil for none.
func lookup(tree map[string]any, path ...string) any {
	var at any = tree
	for _, name := range path {
		t, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = t[name]
	}
	return at
}

// text is a string at a path of a tree, "" for none.
func text(tree map[string]any, path ...string) string {
	s, _ := lookup(tree, path...).(string)
	return s
}

// texts are the strings of a list at a path of a tree.
func texts(tree map[string]any, path ...string) (list []string) {
	all, _ := lookup(tree, path...).([]any)
	for _, one := range all {
		if s, ok := one.(string); ok {
			list = append(list, s)
		}
	}
	return list
}

// tablesAt are the tables of a list at a path of a tree.
func tablesAt(tree map[string]any, path ...string) (list []map[string]any) {
	all, _ := lookup(tree, path...).([]any)
	for _, one := range all {
		if t, ok := one.(map[string]any); ok {
			list = append(list, t)
		}
	}
	return list
}

// copyOf copies the tables and lists of a tree.
func copyOf(tree map[string]any) map[string]any {
	out := make(map[string]any, len(tree))
	for name, value := range tree {
		switch v := value.(type) {
		case map[string]any:
			out[name] = copyOf(v)
		case []any:
			out[name] = slices.Clone(v)
		default:
			out[name] = value
		}
	}
	return out
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// keyOf is a name as TOML writes it.
func keyOf(name string) string {
	if bareKey.MatchString(name) {
		return name
	}
	return literal(name)
}

func dotted(path []string) string {
	keys := make([]string, 0, len(path))
	for _, name := range path {
		keys = append(keys, keyOf(name))
	}
	return strings.Join(keys, ".")
}

// literal is a value as TOML writes it: what JSON writes for strings, integers and lists of
// them, TOML reads too.
func literal(value any) string {
	if list, ok := value.([]any); ok {
		parts := make([]string, 0, len(list))
		for _, one := range list {
			parts = append(parts, literal(one))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return `""` // only for kinds that no setting has; the comparison after an edit finds it
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for name := range m {
		keys = append(keys, name)
	}
	slices.Sort(keys)
	return keys
}
