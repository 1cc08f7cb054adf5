package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/content"
	"layervault/keys/secretio"
	"layervault/persist"
)

// contentVerb is what the content verbs share.
type contentVerb struct {
	app *app
}

func newContentCommand(a *app) *cobra.Command {
	verb := func(of func(*contentVerb) *cobra.Command) *cobra.Command {
		cmd := of(&contentVerb{app: a})
		a.areas.register(cmd.Flags())
		return cmd
	}
	cmd := group("content", "Receive, verify and store content by its digest",
		verb((*contentVerb).receive), verb((*contentVerb).verify), verb((*contentVerb).store), verb((*contentVerb).list), verb((*contentVerb).gc),
		verb((*contentVerb).drop),
	)
	cmd.Long = `Receive, verify and store content by its digest ("layervault help persist"). Each of the three
steps runs as its own user: started as root it becomes that user, and started as another it is
refused. The areas must be open (layervault persist open).`
	return cmd
}

// contents makes the store of content, whose progress a person sees.
func (c *contentVerb) contents(verb string) (*content.Store, error) {
	if err := c.app.areas.check(); err != nil {
		return nil, err
	}
	s := c.app.areas
	return content.New(content.Config{Layout: c.app.layout(), Agents: s.Agents, Floor: s.Floor, Progress: c.app.progressBytes(verb)}), nil
}

// progressBytes shows bytes on a terminal, and nothing elsewhere; total 0 is not known. Not more
// than once for each percent, or each 16 MiB: a serial console is slow.
func (a *app) progressBytes(verb string) func(done, total int64) {
	if a.json || !secretio.IsTerminal(a.err) {
		return nil
	}
	shown := int64(-1)
	return func(done, total int64) {
		step := max(total/100, 16<<20)
		if done/step == shown && done != total {
			return
		}
		shown = done / step
		if total == 0 {
			_, _ = fmt.Fprintf(a.err, "\r%s %s ", verb, size(done))
			return
		}
		_, _ = fmt.Fprintf(a.err, "\r%s %s of %s, %d %% ", verb, size(done), size(total), done*100/total)
		if done == total {
			_, _ = fmt.Fprintln(a.err)
		}
	}
}

func (c *contentVerb) receive() *cobra.Command {
	var known content.Announced
	cmd := &cobra.Command{
		Use:   "receive DIGEST",
		Short: "Receive content on standard input, under the digest that it is claimed to have",
		Long: `Receive content on standard input, under the digest that it is claimed to have. What has come
is kept when the input breaks off, if --size says that it did: the same command then goes on.
The input is the whole content again, or with --offset what follows that many bytes of it
(layervault content list shows how many have come).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, d, err := c.named("received", args[0])
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			child, err := c.becomes(s, "receive", persist.Downloader)
			if err != nil {
				return err
			}
			if child {
				return c.as(ctx, s, persist.Downloader, nil, c.app.args...)
			}
			r, err := s.Receive(ctx, d, interruptible(ctx, c.app.in), known)
			if err != nil {
				return err
			}
			return c.done("received", r)
		},
	}
	cmd.Flags().Int64Var(&known.Size, "size", 0, "size of the whole content in bytes, if it is known")
	cmd.Flags().Int64Var(&known.Offset, "offset", 0, "place in the content at which the input begins")
	return cmd
}

// named makes the store, and reads a digest.
func (c *contentVerb) named(verb, digest string) (*content.Store, content.Digest, error) {
	s, err := c.contents(verb)
	if err != nil {
		return nil, "", err
	}
	d, err := content.ParseDigest(digest)
	return s, d, err
}

// becomes says whether a step needs a process that becomes the owner of an area. Error:
// *content.UserError.
func (c *contentVerb) becomes(s *content.Store, step string, a persist.Area) (bool, error) {
	err := s.CheckUser(step, a)
	if err != nil && os.Geteuid() == 0 {
		return true, nil
	}
	return false, err
}

func (c *contentVerb) done(verb string, r content.Result) error {
	text := fmt.Sprintf("%s %s, %s", verb, r.Digest, size(r.Bytes))
	if r.Already {
		text = fmt.Sprintf("%s already: %s, %s", verb, r.Digest, size(r.Bytes))
	}
	if r.Resumed > 0 {
		text += fmt.Sprintf(", %s of it before", size(r.Resumed))
	}
	return c.app.result(r, "%s\n", text)
}

func (c *contentVerb) verify() *cobra.Command {
	return c.taking(&cobra.Command{
		Use:   "verify DIGEST",
		Short: "Move received content to the verifier, which keeps it if it has its digest",
		Long: `Move received content to the verifier, which keeps it if it has its digest. Content with
another digest is removed: exit status 10.`,
	}, taking{step: "verify", verb: "verified", from: persist.Downloader, to: persist.Verifier, do: (*content.Store).Verify, has: (*content.Store).Verified})
}

func (c *contentVerb) store() *cobra.Command {
	return c.taking(&cobra.Command{
		Use:   "store DIGEST",
		Short: "Move verified content to the store, where containerd finds it",
	}, taking{step: "store", verb: "stored", from: persist.Verifier, to: persist.Case, do: (*content.Store).Keep, has: (*content.Store).Stored})
}

// drop removes what the step after has; it is for the program itself.
func (c *contentVerb) drop() *cobra.Command {
	return &cobra.Command{
		Use:    "drop AREA DIGEST",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if !persist.IsArea(args[0]) {
				return usagef("unknown area %q", args[0])
			}
			s, d, err := c.named("", args[1])
			if err != nil {
				return err
			}
			return s.Drop(persist.Area(args[0]), d)
		},
	}
}

// wrongDigest says whether an error is that content was refused, here or in another process.
func wrongDigest(err error) bool { return advice.Status(err) == advice.StatusRefused }
