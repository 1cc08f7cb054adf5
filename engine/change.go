package engine

import (
	"context"
	"fmt"
	"strings"
)

// Change is one file of the configuration: what is to change in it, and what became of that.
type Change struct {
	Containerd *Containerd `json:"containerd,omitempty"` // nil for docker's daemon.json
	*Plan
	Kept    string `json:"kept,omitempty"` // the copy of the old file
	Written bool   `json:"written,omitempty"`
	Error   string `json:"error,omitempty"` // why only a person can edit it
}

// WriteAll writes the files that can be written and are to change, until one fails.
func (h Host) WriteAll(ctx context.Context, changes []*Change) (err error) {
	for _, c := range changes {
		if !c.Writable() {
			continue
		}
		if c.Kept, err = h.Write(ctx, c.Plan); err != nil {
			return fmt.Errorf("write %s: %w", c.File, err)
		}
		c.Written = true
	}
	return nil
}

// Text describes the changes for a person. Everything but the lines to be added is a comment, so
// that the text can be pasted.
func Text(changes []*Change) string {
	var b strings.Builder
	for _, c := range changes {
		c.describe(&b)
	}
	return b.String()
}

func (c *Change) describe(b *strings.Builder) {
	if on := c.Containerd; on != nil {
		version := on.Version
		if version == "" {
			version = "of an unknown version"
		}
		fmt.Fprintf(b, "# %s containerd %s, socket %s\n", on.Kind, version, on.Socket)
	}
	switch {
	case c.Written:
		fmt.Fprintf(b, "# written: %s\n", c.File)
	case c.Lines == "":
		fmt.Fprintf(b, "# nothing to do: %s\n", c.File)
	default:
		fmt.Fprintf(b, "# to be in %s\n%s", c.File, c.Lines)
	}
	if c.Kept != "" {
		fmt.Fprintf(b, "# the old one: %s\n", c.Kept)
	}
	for _, note := range c.Notes {
		fmt.Fprintf(b, "# note: %s\n", note)
	}
	if c.Lines != "" {
		fmt.Fprintf(b, "# then: %s\n", c.Restart)
	}
}
