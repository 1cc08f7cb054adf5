package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPlot draws a small result, and reads it back as XML.
func TestPlot(t *testing.T) {
	r := result{Rows: []row{
		pair("docker run <--rm>", "s", "overlay2", []float64{1, 1.1, 1.2}, []float64{1, 1, 1}, 1.15, false),
		pair("sequential read", "MB/s", "the same device", []float64{90}, []float64{100}, 0.97, true),
		single("memory", "MiB", []float64{40}, 64),
		apart("sequential read", "MB/s", "not encrypted", []float64{90}, []float64{900}),
	}}
	var b strings.Builder
	if err := plot(&b, r); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	elements := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		if start, ok := token.(xml.StartElement); ok {
			elements[start.Name.Local]++
		}
	}
	if elements["circle"] != 2 || elements["path"] != 2 {
		t.Errorf("%d dots and %d goals, want two of each: memory has no ratio", elements["circle"], elements["path"])
	}
	for _, want := range []string{"docker run &lt;--rm&gt;", "1.10 (1.00-1.20), at most 1.15", "0.90 (0.90-0.90), at least 0.97"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if err := plot(io.Discard, result{Rows: r.Rows[2:]}); !errors.Is(err, errNothingToPlot) {
		t.Errorf("a result without ratios: %v", err)
	}
}

func TestAxis(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   axis
	}{
		"around one":     {[]float64{0.97, 1.03}, axis{0.9, 1.1}},
		"at a mark":      {[]float64{0.9}, axis{0.8, 1.1}},
		"far below":      {[]float64{0.09, 1.14}, axis{0.05, 1.2}},
		"beyond all":     {[]float64{0.001, 40}, axis{0.02, 10}},
		"nothing at all": {nil, axis{0.9, 1.1}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAxis(c.values)
			if a != c.want {
				t.Errorf("axis %v, want %v", a, c.want)
			}
			if a.at(a.low) != plotLeft || a.at(a.high) != plotRight || a.at(1e-9) != plotLeft || a.at(1e9) != plotRight {
				t.Errorf("ends at %g and %g, want %d and %d", a.at(a.low), a.at(a.high), plotLeft, plotRight)
			}
			if ticks := a.ticks(); !slices.Contains(ticks, 1) || len(ticks) < 2 {
				t.Errorf("ticks %v", ticks)
			}
		})
	}
}

// TestKeptResults: each result that is kept can be read, and its plot was drawn from it.
func TestKeptResults(t *testing.T) {
	dir := t.TempDir()
	kept, err := filepath.Glob("../../docs/benchmarks/*.json")
	if err != nil || len(kept) == 0 {
		t.Fatalf("found %v: %v", kept, err)
	}
	for _, name := range kept {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(copied, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := plotFiles([]string{copied}); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.TrimSuffix(copied, ".json") + ".svg")
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(strings.TrimSuffix(name, ".json") + ".svg")
		if err != nil {
			t.Fatalf("%v: draw it with tests/bench -plot", err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not what its numbers give: draw it with tests/bench -plot", name)
		}
	}
}
