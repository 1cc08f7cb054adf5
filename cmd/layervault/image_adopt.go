package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"layervault/crypt/luks2"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
)

// errNotAdopted: the answer of the person was not yes.
var errNotAdopted = errors.New("not adopted, nothing was changed")

// adoption is the result of image adopt --json.
type adoption struct {
	Image   string         `json:"image"`
	Path    string         `json:"path"`
	Changes []luks2.Change `json:"changes"`
	Adopted bool           `json:"adopted"` // false where there was nothing to adopt in the header
	Listed  bool           `json:"listed"`  // a volume was entered in the list of its tier
}

func newImageAdoptCommand(a *app) *cobra.Command {
	var name, area string
	var yes bool
	cmd := &cobra.Command{
		Use:   "adopt [LAYER]",
		Short: "Accept an image whose LUKS2 header was changed by hand",
		Long: `Accept an image whose LUKS2 header was changed by hand.

An image opens only with the header that was written with its key. After cryptsetup
luksAddKey, luksConvertKey, reencrypt or token import the image is refused. This command
shows which fields differ, asks, and authenticates the present header. An image of an
older format, for example from a backup, is upgraded. A volume that is not in the list of
its tier, for example one that was copied here, is added to the list.

Answer yes only if you know each change: the header decides how the image is read. A
forbidden cipher, size or offset is never adopted.

LAYER is a layer ID, the start of one, or the path of the image.`,
		Args: cobra.MaximumNArgs(1),
	}
	v := a.newVolumeVerb()
	v.reads(cmd, readsPlaces|readsKeys)
	cmd.Flags().StringVar(&name, "volume", "", "name or ID of a volume, instead of a layer")
	cmd.Flags().StringVar(&area, "area", "", "downloader, verifier or case, instead of a layer")
	cmd.MarkFlagsMutuallyExclusive("volume", "area")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (name == "" && area == "") == (len(args) == 0) {
			return usagef("name one layer, or one volume with --volume, or one area with --area")
		}
		switch {
		case area != "":
			return v.adoptArea(cmd.Context(), area, yes)
		case name != "":
			return v.adoptVolume(cmd.Context(), name, yes)
		}
		return v.adoptLayer(cmd.Context(), args[0], yes)
	}
	return cmd
}

func (v *volumeVerb) adoptArea(ctx context.Context, name string, yes bool) error {
	if !persist.IsArea(name) {
		return usagef("unknown area %q: must be downloader, verifier or case", name)
	}
	return v.withVault(func(open *vault.Vault) error {
		result, err := v.adopt(ctx, open, open.AreaImage(persist.Area(name)), persist.Vault, yes)
		if err != nil {
			return err
		}
		return v.app.printAdoption(result)
	})
}

func (v *volumeVerb) adoptLayer(ctx context.Context, name string, yes bool) error {
	im, err := vault.FindLayer(ctx, v.app.layout(), name)
	if err != nil {
		return err
	}
	return v.withVault(func(open *vault.Vault) error {
		result, err := v.adopt(ctx, open, im, persist.Vault, yes)
		if err != nil {
			return err
		}
		return v.app.printAdoption(result)
	})
}

func (v *volumeVerb) adoptVolume(ctx context.Context, name string, yes bool) error {
	return v.withStore(ctx, func(open *vault.Vault, s *volume.Store) error {
		found, err := s.Get(ctx, name)
		// A volume whose record cannot be read may be adopted by its ID, to repair its header.
		if err != nil && (found.Path == "" || found.ID().String() != name) {
			return err
		}
		result := adoption{Image: "volume " + found.ID().String(), Path: found.Path, Changes: []luks2.Change{}}
		if found.IsImage() {
			if result, err = v.adopt(ctx, open, vault.VolumeImage(found.ID().String(), found.Path), found.Options.Tier, yes); err != nil {
				return err
			}
		}
		if !found.Unauthenticated() {
			return v.app.printAdoption(result)
		}
		unlisted := luks2.Change{Field: "volumes.json", What: fmt.Sprintf("does not list this volume, whose record says name %s, tier %s", found.Name, found.KeyTier())}
		if err := v.app.showChanges(result.Image, result.Path, []luks2.Change{unlisted}, yes); err != nil {
			return err
		}
		if _, err := s.Adopt(ctx, found.ID().String()); err != nil {
			return err
		}
		result.Changes = append(result.Changes, unlisted)
		result.Listed = true
		return v.app.printAdoption(result)
	})
}

// adopt shows, asks and adopts.
func (v *volumeVerb) adopt(ctx context.Context, open *vault.Vault, im *vault.Image, tier persist.Tier, yes bool) (adoption, error) {
	result := adoption{Image: im.Title(), Path: im.Path, Changes: []luks2.Change{}}
	changes, err := open.Adopt(ctx, im, tier, func(changes []luks2.Change) error {
		return v.app.showChanges(im.Title(), im.Path, changes, yes)
	})
	result.Changes = append(result.Changes, changes...)
	result.Adopted = err == nil && len(changes) > 0
	return result, err
}

// showChanges shows what differs and asks.
func (a *app) showChanges(title, path string, changes []luks2.Change, yes bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", title, path)
	for _, c := range changes {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	// A question and its context are no result.
	if _, err := io.WriteString(a.err, b.String()); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	if yes {
		return nil
	}
	if adopt, err := a.confirm("Adopt it as it is now?"); adopt || err != nil {
		return err
	}
	return errNotAdopted
}

func (a *app) printAdoption(r adoption) error {
	if a.json {
		return a.printJSON(r)
	}
	switch {
	case r.Listed:
		return a.printf("%s: added to the list of volumes\n", r.Image)
	case r.Adopted:
		return a.printf("%s: header adopted\n", r.Image)
	}
	return a.printf("%s: nothing to adopt\n", r.Image)
}
