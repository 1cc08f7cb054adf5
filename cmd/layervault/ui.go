package main

// The rules of this program's output, for authors of verbs:
//
//   - Results go to standard output and nothing else does, so they can be piped.
//     Errors, hints and questions go to standard error.
//   - An error is one line "layervault: what failed: why", followed by at most one
//     line "hint: the command to type next". No usage text after a real error.
//   - With --json the result is one JSON document on standard output, and an error is
//     one on standard error: {"error":{"message","status","hint"}}. Field names are
//     lower case with underscores; sizes are bytes, times RFC 3339 in UTC.
//   - Tables are for people: columns by text/tabwriter, upper case heads, no colours,
//     no line that needs more than 100 columns for ordinary input. Scripts use --json.
//   - A secret is never printed to a terminal, and never without being asked for.
//   - The exit status says what kind of failure it was; package advice has the list.

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"

	"layervault/advice"
	"layervault/keys/secretio"
)

// streams are the three standard streams, files in production.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// printJSON writes a result as one indented document.
func (s streams) printJSON(v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// table prints rows below a head.
func (s streams) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			if i > 0 {
				_, _ = io.WriteString(w, "\t") // kept by the tabwriter until Flush
			}
			_, _ = io.WriteString(w, cell)
		}
		_, _ = io.WriteString(w, "\n")
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

// printf writes to standard output.
func (s streams) printf(format string, args ...any) error {
	if _, err := fmt.Fprintf(s.out, format, args...); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// result prints one outcome, for people or as JSON.
func (a *app) result(v any, format string, args ...any) error {
	if a.json {
		return a.printJSON(v)
	}
	return a.printf(format, args...)
}

// progress shows a count on a terminal, and nothing elsewhere. verb is what was done.
func (a *app) progress(verb string) func(done, total int, things string) {
	if a.json || !secretio.IsTerminal(a.err) {
		return nil
	}
	return func(done, total int, things string) {
		_, _ = fmt.Fprintf(a.err, "\r%s %d of %d %s", verb, done, total, things)
		if done == total {
			_, _ = fmt.Fprintln(a.err)
		}
	}
}

// confirm asks a person. Only y and yes are a yes. A question and its context are no result.
func (a *app) confirm(question string) (bool, error) {
	if _, err := io.WriteString(a.err, question+" [y/N] "); err != nil {
		return false, fmt.Errorf("ask: %w", err)
	}
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// size prints bytes for people.
func size(n int64) string { return units.BytesSize(float64(n)) }

// short is the head of a long id, as docker shows it. BuildKit's ids are shorter
// and an init layer's end in "-init", which must stay visible.
func short(id string) string {
	const hexID = 64
	switch {
	case len(id) == hexID:
		return id[:12]
	case len(id) > hexID && id[hexID] == '-':
		return id[:12] + id[hexID:]
	}
	return id
}

// report prints an error with its hint.
func (a *app) report(err error) {
	if _, reported := errors.AsType[*advice.ReportedError](err); reported || err == nil {
		return
	}
	hint := advice.Step(err)
	// An error of standard error itself cannot be reported.
	if a.json {
		type body struct {
			Message string `json:"message"`
			Status  int    `json:"status"`
			Hint    string `json:"hint,omitempty"`
		}
		enc := json.NewEncoder(a.err)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(map[string]body{"error": {err.Error(), advice.Status(err), hint}})
		return
	}
	_, _ = fmt.Fprintf(a.err, "layervault: %v\n", err)
	if hint != "" {
		_, _ = fmt.Fprintf(a.err, "hint: %s\n", hint)
	}
}
