package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
)

func newImageCommand(a *app) *cobra.Command {
	return group("image", "Look at the encrypted images", newImageListCommand(a), newImageKeyCommand(a), newImageAdoptCommand(a))
}

// imageRow is one layer in image list --json.
type imageRow struct {
	Layer   string     `json:"layer"`
	Parent  string     `json:"parent,omitempty"`
	Kind    layer.Kind `json:"kind"`
	UUID    string     `json:"uuid,omitempty"`   // LUKS2 UUID; "" for a fresh layer
	Format  int        `json:"format,omitempty"` // of the image: what its header claims
	Cipher  string     `json:"cipher,omitempty"` // in dm-crypt's notation
	Disk    int64      `json:"disk_bytes"`
	Content int64      `json:"content_bytes,omitempty"` // sealed layers only
	Path    string     `json:"path,omitempty"`
	Error   string     `json:"error,omitempty"` // why the image cannot be read
}

func newImageListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the layers with their LUKS2 images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := a.images(cmd.Context())
			if printErr := a.printImages(rows); printErr != nil {
				return printErr
			}
			return err
		},
	}
}

// images reads every layer. Layers that cannot be read are named in the error,
// beside the rest.
func (a *app) images(ctx context.Context) (_ []imageRow, err error) {
	r, err := layer.OpenReader(a.layout().Layers(persist.Vault))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	records, err := r.List(ctx)
	rows := make([]imageRow, 0, len(records))
	for _, rec := range records {
		row := imageRow{Layer: rec.ID, Parent: rec.Parent, Kind: rec.Kind, Content: rec.Size}
		if u, err := r.Usage(rec.ID); err == nil {
			row.Disk = u.Disk
		}
		switch h, err := r.Header(rec.ID); {
		case err == nil:
			row.UUID, row.Format, row.Cipher, row.Path = h.UUID(), h.Format(), h.Segment().Cipher, r.ImagePath(rec.ID)
		case rec.Kind == layer.Fresh && errors.Is(err, fs.ErrNotExist):
		default:
			row.Error = err.Error()
		}
		rows = append(rows, row)
	}
	return rows, err
}

func (a *app) printImages(rows []imageRow) error {
	if a.json {
		return a.printJSON(rows)
	}
	cells := make([][]string, 0, len(rows))
	for _, r := range rows {
		uuid, cipher := orDash(r.UUID), orDash(r.Cipher)
		if r.Error != "" {
			uuid, cipher = "unreadable", r.Error
		}
		cells = append(cells, []string{short(r.Layer), string(r.Kind), uuid, cipher, size(r.Disk), orDash(short(r.Parent))})
	}
	return a.table([]string{"LAYER", "KIND", "LUKS UUID", "CIPHER", "DISK", "PARENT"}, cells)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newImageKeyCommand(a *app) *cobra.Command {
	var s settings
	var out string
	cmd := &cobra.Command{
		Use:   "key LAYER",
		Short: "Write the LUKS2 passphrase of one image, for stock cryptsetup",
		Long: `Write the LUKS2 passphrase of one image to a pipe or a file, for stock cryptsetup.

LAYER is a layer's id, the beginning of one, or the path of its image. For example:

  layervault image key 3f2a | cryptsetup open --readonly --key-file - \
      /persist/vault/layers/3f2a.../image.luks rescue`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageKey(cmd.Context(), s, args[0], out)
		},
	}
	keyFileOut(cmd, &out)
	s.registerKey(cmd.Flags(), a.env)
	s.registerRecovery(cmd.Flags())
	return cmd
}

// keyFileOut is the flag of the verbs that write an image's passphrase.
func keyFileOut(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVar(out, "key-file-out", "-", "file to make (mode 0600), or - for standard output, which must not be a terminal")
}

// noKeyOnTerminal refuses to show a passphrase to whoever looks at the screen.
func (a *app) noKeyOnTerminal(out string) error {
	if out == "-" && isTerminal(a.out) {
		return usagef("standard output is a terminal: pipe the key to cryptsetup, or name a file with --key-file-out")
	}
	return nil
}

func (a *app) imageKey(ctx context.Context, s settings, name, out string) (err error) {
	if err := a.noKeyOnTerminal(out); err != nil {
		return err
	}
	r, err := layer.OpenReader(a.layout().Layers(persist.Vault))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	id, err := findLayer(ctx, r, name)
	if err != nil {
		return err
	}
	cfg := a.keyConfig(s, nil)
	if cfg.Recovery, err = a.typedKey(s); err != nil {
		return err
	}
	defer clear(cfg.Recovery)
	key, _, _, err := unlock.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	pass, err := r.Passphrase(id, key)
	if err != nil {
		return err
	}
	defer clear(pass)
	return writeSecret(a.out, out, pass)
}

// findLayer turns what a person typed into a layer's id.
func findLayer(ctx context.Context, r *layer.Reader, name string) (string, error) {
	if filepath.Base(name) == layer.ImageName {
		name = filepath.Base(filepath.Dir(name))
	}
	if err := layer.ValidateID(name); err != nil {
		return "", err
	}
	if _, err := r.Get(name); !errors.Is(err, layer.ErrNotFound) {
		return name, err
	}
	records, err := r.List(ctx)
	found := ""
	for _, rec := range records {
		if !strings.HasPrefix(rec.ID, name) {
			continue
		}
		if found != "" {
			return "", usagef("more than one layer begins with %q: %s and %s", name, found, rec.ID)
		}
		found = rec.ID
	}
	if found == "" {
		return "", errors.Join(fmt.Errorf("%w: %s", layer.ErrNotFound, name), err)
	}
	return found, nil
}

// writeSecret writes to stdout for "-", and otherwise to a file that must be new:
// one that exists may have other readers.
func writeSecret(stdout io.Writer, name string, secret []byte) error {
	if name == "-" {
		if _, err := stdout.Write(secret); err != nil {
			return fmt.Errorf("write the key: %w", err)
		}
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	_, err = f.Write(secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the key: %w", errors.Join(err, os.Remove(name)))
	}
	return nil
}
