// Package docs holds the manual, built into the program: `layervault help TOPIC` prints it
// on a machine that has nothing but the program.
package docs

import (
	"embed"
	"path"
	"regexp"
	"slices"
	"strings"
)

//go:embed *.md
var files embed.FS

// Topic is one page of the manual.
type Topic struct {
	Name  string `json:"topic"` // as `layervault help` takes it: the file's name without .md
	Title string `json:"title"`
	Text  string `json:"text"`
}

// Topics lists every page, by name.
func Topics() ([]Topic, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	topics := make([]Topic, 0, len(entries))
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		head, _, _ := strings.Cut(string(data), "\n")
		topics = append(topics, Topic{
			Name: strings.TrimSuffix(e.Name(), ".md"), Title: strings.TrimPrefix(head, "# "), Text: plain(string(data)),
		})
	}
	// By name; the files' own order has keys-design.md before keys.md.
	slices.SortFunc(topics, func(a, b Topic) int { return strings.Compare(a.Name, b.Name) })
	return topics, nil
}

// link is a Markdown link or picture within one line.
var link = regexp.MustCompile(`!?\[([^\]\n]*)\]\(([^)\s]*)\)`)

// plain turns links into what a reader at a terminal can type. A link to a page names its
// topic; one to a place in the same page, or to a file of the source, keeps its words only.
func plain(text string) string {
	return link.ReplaceAllStringFunc(text, func(found string) string {
		m := link.FindStringSubmatch(found)
		words, target := m[1], m[2]
		if strings.Contains(target, "://") {
			return words + " (" + target + ")"
		}
		file, _, _ := strings.Cut(target, "#")
		topic, isPage := strings.CutSuffix(file, ".md")
		switch {
		case !isPage || topic != path.Base(topic):
			return words
		case words == file:
			return "`layervault help " + topic + "`"
		}
		return words + " (`layervault help " + topic + "`)"
	})
}
