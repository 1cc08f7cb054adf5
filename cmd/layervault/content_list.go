package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"layervault/content"
)

func (c *contentVerb) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List content with its state and its size",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.contents("")
			if err != nil {
				return err
			}
			all, listErr := s.List(cmd.Context())
			if c.app.json {
				return errors.Join(listErr, c.app.printJSON(all))
			}
			rows := make([][]string, 0, len(all))
			for _, o := range all {
				rows = append(rows, []string{o.Digest.String(), o.State, size(o.Bytes), o.Changed.Format(time.DateTime)})
			}
			return errors.Join(listErr, c.app.table([]string{"DIGEST", "STATE", "SIZE", "CHANGED"}, rows))
		},
	}
}

func (c *contentVerb) gc() *cobra.Command {
	var p content.Policy
	var keep []string
	var keepFile string
	var all bool
	cmd := &cobra.Command{
		Use:   "gc --older AGE [--stored (--keep DIGEST... | --keep-file FILE | --keep-none)]",
		Short: "Remove content that is old and that nobody asked to keep",
		Long: `Remove content that is old and that nobody asked to keep: what was received or verified and
never went on, and unfinished files. With --stored the store too; what containerd refers to is
not known here, so the digests to keep must be named then (--keep, --keep-file), or
--keep-none. It is never done by itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.contents("")
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("older") || p.Older < 0 {
				return usagef("--older: name the age from which on content is removed, such as 24h")
			}
			if keepFile != "" {
				lines, err := readLines(keepFile)
				if err != nil {
					return err
				}
				keep = append(keep, lines...)
			}
			if p.Stored && len(keep) == 0 && !all {
				return usagef("--stored: name what to keep with --keep or --keep-file, or give --keep-none")
			}
			for _, text := range keep {
				d, err := content.ParseDigest(text)
				if err != nil {
					return err
				}
				p.Keep = append(p.Keep, d)
			}
			done, err := s.GC(cmd.Context(), p)
			return errors.Join(err, c.printRemoved(done, p.DryRun))
		},
	}
	f := cmd.Flags()
	f.DurationVar(&p.Older, "older", 0, "age from which on content is removed, such as 24h")
	f.BoolVar(&p.Stored, "stored", false, "remove from the store too")
	f.StringArrayVar(&keep, "keep", nil, "digest to keep; may be repeated")
	f.StringVar(&keepFile, "keep-file", "", "file with one digest to keep on each line")
	f.BoolVar(&all, "keep-none", false, "keep nothing that is old enough")
	f.BoolVarP(&p.DryRun, "dry-run", "n", false, "show what would be removed; change nothing")
	return cmd
}

// readLines reads the lines of a file that are not empty and do not begin with #.
func readLines(name string) (lines []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := bufio.NewScanner(f)
	for in.Scan() {
		if line := strings.TrimSpace(in.Text()); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines, in.Err()
}

func (c *contentVerb) printRemoved(done []content.Removed, dry bool) error {
	if c.app.json {
		return c.app.printJSON(done)
	}
	var b strings.Builder
	verb := "removed"
	if dry {
		verb = "would remove"
	}
	var bytes int64
	for _, r := range done {
		if r.Error != "" {
			fmt.Fprintf(&b, "kept %s (%s): %s\n", r.Digest, r.State, r.Error)
			continue
		}
		bytes += r.Bytes
		fmt.Fprintf(&b, "%s %s (%s, %s)\n", verb, r.Digest, r.State, size(r.Bytes))
	}
	fmt.Fprintf(&b, "%s %s in all\n", verb, size(bytes))
	return c.app.printf("%s", b.String())
}
