package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/persist"
	"layervault/vault"
)

// upgradeVerb is vault upgrade.
type upgradeVerb struct {
	*volumeVerb
	dryRun, force, layers bool
}

func newVaultCommand(a *app) *cobra.Command {
	return group("vault", "Manage a whole vault", newVaultUpgradeCommand(a))
}

func newVaultUpgradeCommand(a *app) *cobra.Command {
	u := &upgradeVerb{}
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Upgrade images, records and key rings of format 1 to format 2, in place",
		Long: `Upgrade images, records and key rings of format 1 to format 2, in place: the vault and the
unsealed-vault, and the records of volumes in the clear tier and on disks.

In format 2 every header and every record is authenticated with the tier's key, so that
changes by others are detected. When everything has format 2, the tier refuses format 1.
Data is not re-encrypted, and keys stay the same.

The plugin does this at its first start, unless its setting is upgrade=off. For this
command the plugin must be stopped; containers may run. An interrupted upgrade loses
nothing: run the command again, or start the plugin.

Images that do not open are named, and the tier accepts format 1 until they are removed,
repaired, or adopted with "layervault image adopt". With --force the tier refuses format 1
anyway: those images did not open before either.

With --layers it then seals every older sealed layer anew: EROFS or ext4 with a hash tree,
as a new layer is made. The layers keep their names, sizes and content, and each needs the
space of both images meanwhile. Containers go on with the image that they have; the next
start takes the new one, and the old one is erased after its last user. The plugin does
this by itself, while it serves, with upgrade=layers.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd.Context()) },
	}
	u.volumeVerb = a.newVolumeVerb()
	u.reads(cmd, readsPlaces|readsKeys)
	cmd.Flags().BoolVarP(&u.dryRun, "dry-run", "n", false, "show what has format 1 and whether it opens; change nothing")
	cmd.Flags().BoolVar(&u.layers, "layers", false, "then seal older layers anew")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "layers")
	u.set.images(cmd.Flags())
	cmd.Flags().BoolVar(&u.force, "force", false, "refuse format 1 even if an image does not open")
	return cmd
}

// run upgrades the tiers. An error of one tier does not stop the other.
func (u *upgradeVerb) run(ctx context.Context) error {
	if err := errors.Join(u.set.check(), u.vol.check()); err != nil {
		return err
	}
	if u.layers {
		if err := u.app.hideMounts(); err != nil {
			return err
		}
	}
	v := u.app.newVault(u.set, u.vol, nil, u.app.ringLog())
	reports := []vault.UpgradeReport{}
	var errs []error
	found := false
	for _, tier := range vault.SealedTiers {
		ring, err := keys.Load(ctx, u.app.layout().KeyRing(tier), u.app.ringLog())
		if errors.Is(err, keys.ErrNoRing) {
			continue
		}
		found = true
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", tier, err))
			continue
		}
		report, err := u.tier(ctx, v, tier, ring)
		reports, errs = append(reports, report), append(errs, err)
	}
	if !found {
		return fmt.Errorf("upgrade: %w in %s", keys.ErrNoRing, u.app.persist)
	}
	if u.layers && errors.Join(errs...) == nil {
		errs = append(errs, u.sealLayers(ctx, v, reports))
	}
	return errors.Join(append(errs, u.print(reports))...)
}

// sealScratch is where images are mounted meanwhile, in the mount namespace of this process. It is
// not the plugin's.
const sealScratch = "/run/layervault-upgrade"

// sealLayers seals the older layers of all tiers anew, and adds to the reports what became of them.
func (u *upgradeVerb) sealLayers(ctx context.Context, v *vault.Vault, reports []vault.UpgradeReport) error {
	var progress func(done, total int, _ string)
	if show := u.app.progress("checked"); show != nil {
		progress = func(done, total int, _ string) { show(done, total, "layers") }
	}
	var errs []error
	for i := range reports {
		report, err := v.SealLayers(ctx, persist.Tier(reports[i].Tier), sealScratch, progress)
		reports[i].Layers = &report
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tier upgrades one tier, or only inspects it in a dry run.
func (u *upgradeVerb) tier(ctx context.Context, v *vault.Vault, tier persist.Tier, ring *keys.Ring) (vault.UpgradeReport, error) {
	var done vault.Upgraded
	var err error
	if u.dryRun {
		done, err = v.Look(ctx, tier, ring.Floor())
	} else {
		var progress func(part string, done, total int, _ string)
		if show := u.app.progress("upgraded"); show != nil {
			progress = func(part string, done, total int, _ string) { show(done, total, part) }
		}
		done, err = v.UpgradeTier(ctx, tier, u.force, progress)
	}
	return vault.UpgradeReport{
		Tier: string(tier), DryRun: u.dryRun, Floor: cmp.Or(done.Floor, ring.Floor()), Upgraded: done.Raised,
		Formats: done.Before, Refused: append([]string{}, done.Refused...),
	}, err
}

func (u *upgradeVerb) print(reports []vault.UpgradeReport) error {
	if u.app.json {
		return u.app.printJSON(reports)
	}
	var b strings.Builder
	refused := 0
	for _, r := range reports {
		b.WriteString(r.String())
		refused += len(r.Refused)
	}
	if refused > 0 {
		b.WriteString("adopt a refused image with \"layervault image adopt\", or remove it\n")
	}
	return u.app.printf("%s", b.String())
}
