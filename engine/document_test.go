package engine

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const diffPlugin = "io.containerd.service.v1.diff-service"

func TestEdit(t *testing.T) {
	address := setting{path: []string{"proxy_plugins", "layervault", "address"}, value: "/run/s.sock"}
	differs := setting{path: []string{"plugins", diffPlugin, "default"}, value: []any{"a", "walking"}}
	entry := setting{path: []string{"plugins", "t", "unpack_config"}, value: map[string]any{"snapshotter": "s", "differ": "d"}, more: true}
	for name, tc := range map[string]struct {
		in   string
		set  setting
		want string
	}{
		"empty file":      {"", address, "\n[proxy_plugins.layervault]\n  address = \"/run/s.sock\"\n"},
		"no line end":     {"version = 2", address, "version = 2\n\n[proxy_plugins.layervault]\n  address = \"/run/s.sock\"\n"},
		"only a header":   {"[proxy_plugins.layervault]", address, "[proxy_plugins.layervault]\n  address = \"/run/s.sock\"\n"},
		"beside others":   {"[proxy_plugins.layervault] # ours\n\ttype = \"snapshot\" # kept\n\n# next\n[debug]\n", address, "[proxy_plugins.layervault] # ours\n\ttype = \"snapshot\" # kept\n\taddress = \"/run/s.sock\"\n\n# next\n[debug]\n"},
		"replaced":        {"[proxy_plugins]\n[proxy_plugins.'layervault']\naddress   =   'old'   # note\nx = 1\n", address, "[proxy_plugins]\n[proxy_plugins.'layervault']\naddress   =   \"/run/s.sock\"   # note\nx = 1\n"},
		"dotted":          {"proxy_plugins.layervault.address = \"old\"\r\n", address, "proxy_plugins.layervault.address = \"/run/s.sock\"\r\n"},
		"list over lines": {"[plugins.\"" + diffPlugin + "\"]\n  default = [\n    \"walking\", # theirs\n  ]\n  x = 1", differs, "[plugins.\"" + diffPlugin + "\"]\n  default = [\"a\", \"walking\"]\n  x = 1"},
		"below a table":   {"[plugins]\n  \"" + diffPlugin + "\".default = [\"walking\"]\n", differs, "[plugins]\n  \"" + diffPlugin + "\".default = [\"a\", \"walking\"]\n"},
		"new table":       {"version = 3\n", entry, "version = 3\n\n[[plugins.t.unpack_config]]\n  differ = \"d\"\n  snapshotter = \"s\"\n"},
		"one table more":  {"[[plugins.t.unpack_config]]\nsnapshotter = \"o\"\n", entry, "[[plugins.t.unpack_config]]\nsnapshotter = \"o\"\n\n[[plugins.t.unpack_config]]\n  differ = \"d\"\n  snapshotter = \"s\"\n"},
		"top level":       {"# head\nroot = \"/r\"\n[grpc]\n", setting{path: []string{"version"}, value: int64(2)}, "# head\nroot = \"/r\"\nversion = 2\n[grpc]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parse([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.edit([]setting{tc.set})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got.text)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What cannot be added without rewriting a line of somebody else is refused.
func TestEditRefused(t *testing.T) {
	address := setting{path: []string{"proxy_plugins", "layervault", "address"}, value: "/run/s.sock"}
	entry := setting{path: []string{"plugins", "t", "unpack_config"}, value: map[string]any{"snapshotter": "s"}, more: true}
	for name, tc := range map[string]struct {
		in  string
		set setting
	}{
		"inline table":      {"proxy_plugins = { x = { type = \"diff\" } }\n", address},
		"dotted table":      {"[proxy_plugins]\nlayervault.type = \"snapshot\"\n", address},
		"not a table":       {"[proxy_plugins]\nlayervault = 5\n", address},
		"inline list":       {"[plugins.t]\nunpack_config = [{snapshotter = \"o\"}]\n", entry},
		"list is no list":   {"[plugins.t]\nunpack_config = 7\n", entry},
		"table in an array": {"[[proxy_plugins]]\n[proxy_plugins.layervault]\ntype = \"snapshot\"\n", address},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parse([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.edit([]setting{tc.set}); !errors.Is(err, ErrEdit) {
				t.Errorf("error %v, result %q", err, got.text)
			}
		})
	}
	for _, bad := range []string{"a = ", "[a\n", "a = 1\na = 2\n", "\x00"} {
		if _, err := parse([]byte(bad)); !errors.Is(err, ErrTOML) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzEdit: whatever the file, an edit changes what was asked for, and nothing else.
func FuzzEdit(f *testing.F) {
	for _, text := range []string{
		"", "version = 2\n[plugins]\n", "a.b = 1 # x\r\n[proxy_plugins.layervault]\n", "[[plugins.t.unpack_config]]\nx = 'y'\n",
		"proxy_plugins = {}", "[proxy_plugins.layervault]\naddress = '''\nx'''\n", "d = 1979-05-27T07:32:00Z\n\"k\\\"\" = [1,[2]]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parse(text)
		if err != nil {
			return
		}
		settings := []setting{
			{path: []string{"proxy_plugins", "layervault", "address"}, value: "/run/\"s\".sock"},
			{path: []string{"plugins", diffPlugin, "default"}, value: []any{"a", "walking"}},
			{path: []string{"plugins", "t", "unpack_config"}, value: map[string]any{"snapshotter": "s"}, more: true},
		}
		got, err := d.edit(settings)
		if err != nil {
			if !errors.Is(err, ErrEdit) {
				t.Fatal(err)
			}
			return
		}
		again, err := parse(got.text)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.tree, got.tree) || texts(got.tree, "plugins", diffPlugin, "default")[0] != "a" {
			t.Errorf("%q became %q", text, got.text)
		}
		// Lines that are not set stay, in their order.
		rest := string(got.text)
		for _, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "#") && !strings.ContainsAny(line, "\"'=[") {
				at := strings.Index(rest, line)
				if at < 0 {
					t.Fatalf("line %q is gone from %q", line, got.text)
				}
				rest = rest[at:]
			}
		}
	})
}
