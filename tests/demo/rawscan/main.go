package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rawscan DISK < MARKERS")
		os.Exit(2)
	}
	ok, err := check(os.Args[1], os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "rawscan:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// check scans the disk and prints the table; ok is the verdict.
func check(path string, markers io.Reader, w io.Writer) (ok bool, err error) {
	text, err := io.ReadAll(markers)
	if err != nil {
		return false, err
	}
	list, err := parseMarkers(string(text))
	if err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	found, unknown, err := scan(f, list)
	if err != nil {
		return false, err
	}
	ok = unknown == 0
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "written through\tstorage driver\ton the raw disk\t")
	for _, m := range list {
		n := found[m.bytes]
		where, verdict := "nowhere", ""
		if n > 0 {
			where = fmt.Sprintf("%d times", n)
		}
		switch {
		case m.engine == "overlay2" && n == 0:
			verdict, ok = "should have been found: the check itself is broken", false
		case m.engine != "overlay2" && n > 0:
			verdict, ok = "LEAK", false
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", m.path, m.engine, where, verdict)
	}
	if unknown > 0 {
		fmt.Fprintf(tw, "(garbled)\t?\t%d times\tLEAK\n", unknown)
	}
	return ok, tw.Flush()
}
