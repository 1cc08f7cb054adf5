package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/content"
	"layervault/persist"
)

// taking is a step that takes content from an area into another.
type taking struct {
	step, verb string
	from, to   persist.Area
	do         func(*content.Store, context.Context, content.Digest, *os.File) (content.Result, error)
	has        func(*content.Store, content.Digest) (bool, error)
}

// sourceFD is the number under which a process finds the file that another opened for it.
const sourceFD = 3

// taking completes a verb. Root opens what the step before left; the process that becomes the
// step's user gets the open file, and the one that becomes the user before removes it.
func (c *contentVerb) taking(cmd *cobra.Command, t taking) *cobra.Command {
	handed := false
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, d, err := c.named(t.verb, args[0])
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if handed {
			return c.take(ctx, s, t, d, os.NewFile(sourceFD, "source"))
		}
		if _, err := c.becomes(s, t.step, t.to); err != nil {
			return err
		}
		source, err := s.Source(t.from, d)
		if errors.Is(err, content.ErrNotFound) {
			if has, hasErr := t.has(s, d); has && hasErr == nil {
				return c.done(t.verb, content.Result{Digest: d, Already: true})
			}
		}
		if err != nil {
			return err
		}
		err = c.hand(ctx, s, t, d, source)
		if err = errors.Join(err, source.Close()); err != nil && !wrongDigest(err) {
			return err
		}
		return errors.Join(err, c.dropFrom(ctx, s, t.from, d))
	}
	cmd.Flags().BoolVar(&handed, "handed-over", false, "the content is file descriptor 3")
	_ = cmd.Flags().MarkHidden("handed-over") // it exists
	return cmd
}

// hand runs the step as its user.
func (c *contentVerb) hand(ctx context.Context, s *content.Store, t taking, d content.Digest, source *os.File) error {
	child, err := c.becomes(s, t.step, t.to)
	if err != nil {
		return err
	}
	if !child {
		return c.take(ctx, s, t, d, source)
	}
	return c.as(ctx, s, t.to, source, append([]string{"--handed-over=true"}, c.app.args...)...)
}

func (c *contentVerb) take(ctx context.Context, s *content.Store, t taking, d content.Digest, source *os.File) error {
	r, err := t.do(s, ctx, d, source)
	if err != nil {
		return err
	}
	return c.done(t.verb, r)
}

// dropFrom removes content from an area as its owner.
func (c *contentVerb) dropFrom(ctx context.Context, s *content.Store, a persist.Area, d content.Digest) error {
	child, err := c.becomes(s, "remove from "+string(a), a)
	if err != nil {
		return err
	}
	if !child {
		return s.Drop(a, d)
	}
	return c.as(ctx, s, a, nil, "content", "drop", string(a), string(d), "--persist", c.app.persist,
		"--downloader", c.app.areas.downloader, "--verifier", c.app.areas.verifier, "--case", c.app.areas.caseOwner, fmt.Sprintf("--json=%v", c.app.json))
}

// childPatience is how long a process that was asked to end may take to make durable what has
// come.
const childPatience = 10 * time.Second

// as runs a command line of this program as the owner of an area, with no other group, no
// privilege and, but for the standard streams, with no open file but source. The process reports
// its own errors.
func (c *contentVerb) as(ctx context.Context, s *content.Store, a persist.Area, source *os.File, args ...string) error {
	owner := s.Owner(a)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.app.in, c.app.out, c.app.err
	if source != nil {
		cmd.Stdin, cmd.ExtraFiles = nil, []*os.File{source}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(owner.UID), Gid: uint32(owner.GID)}, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childPatience
	err := cmd.Run()
	if exit, is := errors.AsType[*exec.ExitError](err); is && exit.ExitCode() > 0 {
		return &advice.ReportedError{Status: exit.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run as user %d: %w", owner.UID, err)
	}
	return nil
}

// interruptible is a reader whose Read ends with ctx. A Read of the reader below that does not
// end then is left behind, for the process's end.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{pw}, struct{ io.Reader }{r}, make([]byte, 1<<20))
		_ = pw.CloseWithError(err) // nil is io.EOF
	}()
	context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	return pr
}
