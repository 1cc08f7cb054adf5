package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// verdict is the outcome of one check.
type verdict string

const (
	good    verdict = "ok"
	warning verdict = "warning" // works, but should be mended
	missing verdict = "missing" // essential: nothing works without it
)

// finding is one line of doctor.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Fix     string  `json:"fix,omitempty"` // the command that mends it
}

func ok(format string, args ...any) finding {
	return finding{Verdict: good, Detail: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) finding {
	return finding{Verdict: warning, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

func lack(fix, format string, args ...any) finding {
	return finding{Verdict: missing, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

// check looks at one thing. A check never fails: what it cannot find out is a
// finding too.
type check struct {
	name string
	run  func(ctx context.Context) []finding
}

func newDoctorCommand(a *app) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check that this host has what layervault needs",
		Long: `Check that this host has what layervault needs, and print for each thing that is
missing the command that mends it. Nothing is changed. Exit status 8 if something
essential is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), s)
		},
	}
	s.register(cmd.Flags(), a.env)
	return cmd
}

func (a *app) doctor(ctx context.Context, s settings) error {
	if err := s.check(); err != nil {
		return err
	}
	findings := []finding{}
	lacks := []string{}
	for _, c := range a.checks(s) {
		for _, f := range c.run(ctx) {
			f.Check = c.name
			findings = append(findings, f)
			if f.Verdict == missing {
				lacks = append(lacks, c.name)
			}
		}
	}
	if err := a.printFindings(findings); err != nil {
		return err
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: %s", errHost, strings.Join(lacks, ", "))
	}
	return nil
}

func (a *app) printFindings(findings []finding) error {
	if a.json {
		return a.printJSON(findings)
	}
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-8s %-13s %s\n", f.Verdict, f.Check, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "%-8s %-13s   -> %s\n", "", "", f.Fix)
		}
	}
	return a.printf("%s", b.String())
}

// checks lists what doctor looks at, in the order in which one would mend it.
func (a *app) checks(s settings) []check {
	one := func(f func() finding) func(context.Context) []finding {
		return func(context.Context) []finding { return []finding{f()} }
	}
	return []check{
		{"kernel", one(checkKernel)},
		{"dm-crypt", one(checkDM)},
		{"loop", one(checkLoop)},
		{"filesystems", func(context.Context) []finding { return checkFilesystems() }},
		{"inode numbers", one(checkInodes)},
		{"direct i/o", one(func() finding { return checkDirectIO(s.sectorBytes) })},
		{"cipher", one(func() finding { return checkCipher(s.cipher) })},
		{"kernel keys", one(checkKeyring)},
		{"tpm", func(context.Context) []finding { return checkTPM(s.key, s.tpm) }},
		{"trusted keys", func(ctx context.Context) []finding { return checkTrusted(ctx, s, a.keyConfig(s, nil)) }},
		{"e2fsprogs", one(checkTools)},
		{"docker", checkDocker},
		{"docker tmp", one(checkDockerTmp)},
		{"data-root", func(ctx context.Context) []finding { return []finding{checkDataRoot(ctx, dockerSocket)} }},
		{"root", one(checkRoot)},
		{"persist", func(context.Context) []finding { return checkPersist(a.persist) }},
		{"swap", one(checkSwap)},
		{"key slots", func(ctx context.Context) []finding { return checkSlots(ctx, a.keyConfig(s, nil)) }},
		{"recovery", func(ctx context.Context) []finding { return []finding{checkRecovery(ctx, a.keyConfig(s, nil))} }},
	}
}
