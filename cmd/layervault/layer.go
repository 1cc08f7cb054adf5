package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"layervault/advice"
	"layervault/keys/secretio"
	"layervault/persist"
	"layervault/vault"
)

// layerVerify is layer verify.
type layerVerify struct {
	app   *app
	set   settings
	all   bool
	name  string
	shown int // columns of the progress that is on the terminal
	rows  []vault.VerifiedLayer
}

func newLayerCommand(a *app) *cobra.Command {
	return group("layer", "Check the content of layers", newLayerVerifyCommand(a))
}

func newLayerVerifyCommand(a *app) *cobra.Command {
	c := &layerVerify{app: a, set: settingsOf(a.env), rows: []vault.VerifiedLayer{}}
	cmd := &cobra.Command{
		Use:   "verify [LAYER | --all]",
		Short: "Read sealed layers and compare every block with the hash tree of its image",
		Long: `Read sealed layers from the disk, and compare every block with the hash tree of its image.

When a container reads a block that was changed on the disk, it gets an I/O error. This
command reads what no container reads now, the hash trees too. One line for each layer:

  ok       every block is what was imported
  damaged  with the blocks that are not, or what else is wrong with the image
  no tree  every block can be read; there is nothing to compare with (layers of
           older versions, sectors below 4096 bytes, a kernel without dm-verity)
  failed   the layer could not be checked, and why

Containers may run on the layers, and a plugin beside it. A damaged layer does not end the
run; the exit status is 6 then. Remove the image of a damaged layer and pull it again.

LAYER is a layer ID, the start of one, or the path of the image.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 != c.all {
				return usagef("name one layer, or all with --all")
			}
			if !c.all {
				c.name = args[0]
			}
			return c.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&c.all, "all", false, "every sealed layer of the vault and the unsealed-vault")
	c.set.opening(cmd.Flags(), a.env)
	c.set.rescuing(cmd.Flags())
	return cmd
}

func (c *layerVerify) run(ctx context.Context) (err error) {
	if err := c.set.checkKey(); err != nil {
		return err
	}
	if c.name == "" && !c.all { // "" is all to the vault
		return usagef("name one layer, or all with --all")
	}
	open := c.app.newVault(c.set, volumeSettings{}, nil, c.app.ringLog())
	defer func() { err = errors.Join(err, open.Close()) }()
	w := vault.Verifying{Layer: c.name, Done: c.done}
	if !c.app.json && secretio.IsTerminal(c.app.err) {
		w.Progress = c.progress
	}
	err = open.VerifyLayers(ctx, w)
	c.wipe()
	if c.app.json {
		if printErr := c.app.printJSON(c.rows); printErr != nil {
			return printErr
		}
		return err
	}
	if err == nil && len(c.rows) == 0 {
		return c.app.printf("no sealed layers\n")
	}
	return err
}

// progress overwrites one line of the terminal.
func (c *layerVerify) progress(n, count int, done, total int64) {
	line := fmt.Sprintf("layer %d of %d: %s of %s", n, count, size(done), size(total))
	_, _ = fmt.Fprintf(c.app.err, "\r%-*s", c.shown, line)
	c.shown = len(line)
}

// wipe takes the progress off the terminal.
func (c *layerVerify) wipe() {
	if c.shown > 0 {
		_, _ = io.WriteString(c.app.err, "\r"+strings.Repeat(" ", c.shown)+"\r")
		c.shown = 0
	}
}

// done prints one layer at once: many layers take long.
func (c *layerVerify) done(l vault.VerifiedLayer) error {
	l.Next = advice.Step(l.Err)
	c.rows = append(c.rows, l)
	if c.app.json {
		return nil
	}
	c.wipe()
	return c.app.printf("%s", verifiedLine(l))
}

// verifiedLine is a layer for people.
func verifiedLine(l vault.VerifiedLayer) string {
	state, text := l.State, size(l.Bytes)
	switch l.State {
	case vault.LayerNoTree:
		state, text = "no tree", text+" read, nothing to compare with"
	case vault.LayerDamaged, vault.LayerFailed:
		text = cmp.Or(oneLine(l.Error), "unknown error")
		if l.Next != "" {
			text += "; next: " + l.Next
		}
	}
	name := short(l.Layer)
	if l.Tier != string(persist.Vault) {
		name += " (" + l.Tier + ")"
	}
	return fmt.Sprintf("%-12s  %-7s  %s\n", name, state, text)
}

// oneLine is a text of several errors in a line of a list.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
