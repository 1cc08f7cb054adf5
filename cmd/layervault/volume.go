package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"layervault/vault"
	"layervault/volume"
)

// volumeSettings is what a person chooses for volumes, beside settings.
type volumeSettings struct {
	mounts   string
	size     string
	disks    string // device.json
	diskRoot string
	group    string // number of the group that may pass through mounts

	sizeBytes int64 // filled by check
	gid       int
}

func volumeSettingsOf(env func(string) string) volumeSettings {
	return volumeSettings{
		mounts:   envOr(env, "mounts", volume.DefaultMounts),
		group:    envOr(env, "mountsgroup", "0"),
		size:     envOr(env, "volumesize", defaultSize),
		disks:    env("disks"),
		diskRoot: env("diskroot"),
	}
}

// found adds the flags that say where volumes are.
func (v *volumeSettings) found(f *pflag.FlagSet) {
	f.StringVar(&v.mounts, "mounts", v.mounts, "folder where volumes are mounted for docker (env mounts)")
	v.onDisks(f)
}

// onDisks adds the flags that say where disks are.
func (v *volumeSettings) onDisks(f *pflag.FlagSet) {
	f.StringVar(&v.disks, "disks", v.disks, "device.json or disks.json with disks for volumes (env disks)")
	f.StringVar(&v.diskRoot, "diskroot", v.diskRoot, "folder that all disks must lie below; empty for --persist (env diskroot)")
}

// made adds the flag of verbs that make volumes.
func (v *volumeSettings) made(f *pflag.FlagSet) {
	f.StringVar(&v.size, "volumesize", v.size, "default size of a volume, without the option size= (env volumesize)")
}

// serving adds the flag of a running plugin.
func (v *volumeSettings) serving(f *pflag.FlagSet) {
	f.StringVar(&v.group, "mountsgroup", v.group, "number of the group that may enter the folder of mounts; with userns-remap the group of the remapped root (env mountsgroup)")
}

func (v *volumeSettings) check() (err error) {
	if v.sizeBytes, err = volume.ParseSize(v.size); err != nil {
		return usagef("setting volumesize=%q: %w", v.size, err)
	}
	gid, err := strconv.ParseUint(v.group, 10, 31)
	if err != nil {
		return usagef("setting mountsgroup=%q: must be the number of a group: %w", v.group, err)
	}
	v.gid = int(gid)
	return nil
}

// volumeVerb is what the volume and revision verbs share.
type volumeVerb struct {
	app *app
	set settings
	vol volumeSettings
}

func (a *app) newVolumeVerb() *volumeVerb {
	return &volumeVerb{app: a, set: settingsOf(a.env), vol: volumeSettingsOf(a.env)}
}

// The flags that the verbs read, beside their own.
const (
	readsDisks  = 1 << iota // where disks are
	readsPlaces             // where volumes and disks are
	readsKeys               // how the vault opens
	makesVault              // how the vault opens or is made
	makesImages             // how images are made
)

// verb makes a verb with settings of its own, and the flags that it reads.
func (a *app) verb(of func(*volumeVerb) *cobra.Command, what int) *cobra.Command {
	v := a.newVolumeVerb()
	return v.reads(of(v), what)
}

// reads adds flags to a verb.
func (v *volumeVerb) reads(cmd *cobra.Command, what int) *cobra.Command {
	f := cmd.Flags()
	if what&readsDisks != 0 {
		v.vol.onDisks(f)
	}
	if what&readsPlaces != 0 {
		v.vol.found(f)
	}
	switch {
	case what&makesVault != 0:
		v.set.making(f, v.app.env)
	case what&readsKeys != 0:
		v.set.opening(f, v.app.env)
	}
	if what&(readsKeys|makesVault) != 0 {
		v.set.rescuing(f)
	}
	if what&makesImages != 0 {
		v.set.images(f)
		v.vol.made(f)
	}
	return cmd
}

// withVault calls f with the vault. No tier is opened before f needs it.
func (v *volumeVerb) withVault(f func(*vault.Vault) error) (err error) {
	if err := errors.Join(v.set.check(), v.vol.check()); err != nil {
		return err
	}
	open := v.app.newVault(v.set, v.vol, nil, v.app.ringLog())
	defer func() { err = errors.Join(err, open.Close()) }()
	return f(open)
}

// with calls f with the open store of volumes.
func (v *volumeVerb) with(ctx context.Context, f func(s *volume.Store) error) error {
	return v.withStore(ctx, func(_ *vault.Vault, s *volume.Store) error { return f(s) })
}

func (v *volumeVerb) withStore(ctx context.Context, f func(open *vault.Vault, s *volume.Store) error) error {
	return v.withVault(func(open *vault.Vault) (err error) {
		store, err := open.OpenVolumes(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		return f(open, store)
	})
}

func newVolumeCommand(a *app) *cobra.Command {
	const opens = readsPlaces | readsKeys
	return group("volume", "Manage encrypted volumes",
		a.verb((*volumeVerb).list, opens),
		a.verb((*volumeVerb).show, opens),
		a.verb((*volumeVerb).create, readsPlaces|makesVault|makesImages),
		a.verb((*volumeVerb).grow, opens),
		a.verb((*volumeVerb).trim, opens),
		a.verb((*volumeVerb).purge, opens|makesImages),
		a.verb((*volumeVerb).remove, opens),
		a.verb((*volumeVerb).gc, opens),
		a.verb((*volumeVerb).mount, opens),
		a.verb((*volumeVerb).umount, readsPlaces),
		a.verb((*volumeVerb).key, opens),
	)
}
