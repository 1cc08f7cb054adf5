package convert

import (
	"fmt"
	"strings"

	"github.com/docker/go-units"
)

// Status is what became of an item.
type Status string

// What becomes of an item.
const (
	Would   Status = "would-move" // dry run
	Copied  Status = "copied"     // in its new place; the source is kept until the commit
	Moved   Status = "moved"      // in its new place; the source is destroyed
	Stays   Status = "left"       // by decision: the reason says why
	Failed  Status = "failed"     // an error; another run tries again
	Waiting Status = "waiting"    // the run ended before it
)

// Report says what a run did, or would do.
type Report struct {
	Root   string `json:"root"`
	DryRun bool   `json:"dry_run"`
	Commit bool   `json:"commit"`
	// Config is the checkpoint that was read, "" for none; ConfigTried what was wrong with those
	// before it.
	Config      string   `json:"config"`
	ConfigTried []string `json:"config_tried"`
	Items       []Line   `json:"items"`
	// Bytes are what this run copied; Files and Seconds belong to them.
	Files   int64   `json:"files"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// Needed and Free are the space, for the disk that has the least left.
	Needed int64 `json:"needed_bytes"`
	Free   int64 `json:"free_bytes"`
	// Trimmed are the bytes that the disk was told to forget after a commit; -1 where it takes
	// no such word.
	Trimmed int64 `json:"trimmed_bytes"`
	// Complete: nothing failed and nothing waits.
	Complete bool `json:"complete"`
}

// Line is an item in a report.
type Line struct {
	Source      string   `json:"source"`
	Kind        Kind     `json:"kind"`
	Destination string   `json:"destination,omitempty"`
	Status      Status   `json:"status"`
	Reason      string   `json:"reason,omitempty"`
	Notes       []string `json:"notes,omitempty"`
	Files       int64    `json:"files,omitempty"`
	Bytes       int64    `json:"bytes,omitempty"`
	Digest      string   `json:"digest,omitempty"`
}

// Count is how many items have a status.
func (r Report) Count(s Status) (n int) {
	for _, l := range r.Items {
		if l.Status == s {
			n++
		}
	}
	return n
}

// String is the report for a person.
func (r Report) String() string {
	var b strings.Builder
	for _, t := range r.ConfigTried {
		fmt.Fprintf(&b, "configuration not used: %s\n", t)
	}
	if r.Config != "" {
		fmt.Fprintf(&b, "configuration: %s\n", r.Config)
	}
	for _, l := range r.Items {
		fmt.Fprintf(&b, "%s %s", l.Status, l.Source)
		if l.Destination != "" {
			fmt.Fprintf(&b, " -> %s", l.Destination)
		}
		if l.Files > 0 {
			fmt.Fprintf(&b, " (%d files, %s)", l.Files, units.BytesSize(float64(l.Bytes)))
		}
		if l.Reason != "" {
			fmt.Fprintf(&b, ": %s", l.Reason)
		}
		b.WriteString("\n")
		for _, n := range l.Notes {
			fmt.Fprintf(&b, "  note: %s\n", n)
		}
	}
	if len(r.Items) == 0 {
		b.WriteString("nothing of the old layout is here\n")
		return b.String()
	}
	if r.DryRun {
		fmt.Fprintf(&b, "%d would move, %d left", r.Count(Would), r.Count(Stays))
		if n := r.Count(Copied); n > 0 {
			fmt.Fprintf(&b, ", %d copied by an earlier run", n)
		}
		fmt.Fprintf(&b, "; needs %s, %s free\n", units.BytesSize(float64(r.Needed)), units.BytesSize(float64(r.Free)))
		return b.String()
	}
	fmt.Fprintf(&b, "%d copied, %d moved, %d left, %d failed", r.Count(Copied), r.Count(Moved), r.Count(Stays), r.Count(Failed)+r.Count(Waiting))
	if r.Bytes > 0 && r.Seconds > 0 {
		fmt.Fprintf(&b, "; %s in %.0f s, %s/s", units.BytesSize(float64(r.Bytes)), r.Seconds, units.BytesSize(float64(r.Bytes)/r.Seconds))
	}
	b.WriteString("\n")
	if r.Trimmed > 0 {
		fmt.Fprintf(&b, "the disk was told to forget %s of free space\n", units.BytesSize(float64(r.Trimmed)))
	}
	if n := r.Count(Copied); n > 0 {
		fmt.Fprintf(&b, "the sources of %d items are kept; destroy them with: layervault persist upgrade --commit\n", n)
	}
	return b.String()
}
