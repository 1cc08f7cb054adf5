package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// root is the source's folder.
const root = ".."

// maxColumns is how wide a line of a document may be.
const maxColumns = 100

// documents are all Markdown files that this project writes for its users and developers.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/benchmarks/*.md", "tests/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 10 {
		t.Fatalf("found only %q", all)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestColumns(t *testing.T) {
	for _, path := range documents(t) {
		for i, line := range strings.Split(read(t, path), "\n") {
			if n := utf8.RuneCountInString(line); n > maxColumns {
				t.Errorf("%s:%d: %d columns, at most %d", path, i+1, n, maxColumns)
			}
		}
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notWord = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are the places in a document that a link may name, made as GitHub makes them.
func anchors(text string) []string {
	var names []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := notWord.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestLinks(t *testing.T) {
	for _, path := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			if strings.Contains(m[2], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[2], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s: link %q: %v", path, m[2], err)
				continue
			}
			if anchor != "" && (info.IsDir() || !slices.Contains(anchors(read(t, target)), anchor)) {
				t.Errorf("%s: link %q: no such heading in %s", path, m[2], target)
			}
		}
	}
}

// TestTestsExist: a document that names a test as evidence is wrong once the test is gone.
func TestTestsExist(t *testing.T) {
	known := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(d.Name(), "_test.go") {
			return err
		}
		for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
			known[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)")
	for _, path := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(read(t, path), -1) {
			if !known[m[1]] {
				t.Errorf("%s names %s, which no package has", path, m[1])
			}
		}
	}
}

func TestTopics(t *testing.T) {
	topics, err := Topics()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, topic := range topics {
		names = append(names, topic.Name)
		if topic.Title == "" || strings.HasPrefix(topic.Title, "#") {
			t.Errorf("%s: title %q", topic.Name, topic.Title)
		}
		if strings.Contains(topic.Text, "](") {
			t.Errorf("%s: a link is left", topic.Name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("topics are not sorted: %q", names)
	}
	for _, want := range []string{"install", "keys", "operations", "recovery", "threat-model", "volumes"} {
		if !slices.Contains(names, want) {
			t.Errorf("no topic %s in %q", want, names)
		}
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"See [keys.md](keys.md).":                    "See `layervault help keys`.",
		"[a measured root](install.md#evil) helps":   "a measured root (`layervault help install`) helps",
		"[below](#below)":                            "below",
		"[SECURITY.md](../SECURITY.md)":              "SECURITY.md",
		"![the house](house.svg)":                    "the house",
		"[cryptsetup](https://example.org/a) is old": "cryptsetup (https://example.org/a) is old",
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
