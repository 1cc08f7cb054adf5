package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/driver"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/persist"
	"layervault/plugin/graph"
	"layervault/plugin/mountns"
	"layervault/plugin/socket"
	volumedoor "layervault/plugin/volume"
	"layervault/vault"
	"layervault/volume"
)

const (
	// defaultSocket is where dockerd looks for plugins, and where a managed plugin
	// must put its socket.
	defaultSocket = "/run/docker/plugins/layervault.sock"

	// drainTime is how long a stopping plugin waits for requests under way: dockerd
	// kills it 10 s after it asked it to stop.
	drainTime = 8 * time.Second

	// memoryLimit makes the garbage collector work harder before the plugin grows
	// past it; it is no hard limit. Importing layers makes garbage fast, and the
	// plugin is to stay below 64 MiB, runtime included.
	memoryLimit = 48 << 20
)

func newServeCommand(a *app) *cobra.Command {
	s, v := settingsOf(a.env), volumeSettingsOf(a.env)
	var path string
	var onlyVolumes bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the plugin: the graph driver and the volume driver",
		Long: `Run the plugin on a socket: the graph driver and the volume driver, or with --volumes
the volume driver alone, which every Docker takes, 28 and later too.

Each setting is a flag, or else the environment variable of the same name, which is
how "docker plugin set layervault key=tpm" arrives. The first start makes the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(s.check(), v.check()); err != nil {
				return err
			}
			return a.serve(cmd.Context(), path, s, v, onlyVolumes)
		},
	}
	f := cmd.Flags()
	f.StringVar(&path, "socket", defaultSocket, "socket to listen on")
	f.BoolVar(&onlyVolumes, "volumes", false, "serve volumes only")
	s.making(f, a.env)
	for _, add := range []func(*pflag.FlagSet){s.images, s.serving, v.found, v.made, v.serving} {
		add(f)
	}
	return cmd
}

// serve answers on the socket until ctx ends. It listens before it opens the
// vault: dockerd takes a plugin for dead that does not accept within seconds, and a
// TPM or a sweep after a crash may take longer.
func (a *app) serve(ctx context.Context, path string, s settings, v volumeSettings, onlyVolumes bool) error {
	log := newLog(a.out, a.err, s.level)
	// main has tried this too; a process that holds the key for months must succeed.
	if err := keys.NoCoreDumps(); err != nil {
		return err
	}
	// For the programs it starts: being undumpable is not inherited, this is.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	debug.SetMemoryLimit(memoryLimit)

	if err := mountns.LetGo(a.persist); err != nil {
		return err
	}
	l, err := socket.Listen(ctx, path)
	if err != nil {
		return err
	}
	log.Info("layervault listens", "version", readVersion().Version, "socket", path, "persist", a.persist, "key", s.key)

	person := handover.New(a.layout().Tier(persist.Vault), log)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	open := a.newVault(s, v, person, log)
	upgrade := vault.NewUpgrading(open, !onlyVolumes, s.noUpgrade)
	volumes := volumedoor.New(log)
	doors := []socket.Door{volumes}
	var starting sync.WaitGroup
	var d *driver.Driver
	if !onlyVolumes {
		front := graph.New(log)
		doors = []socket.Door{front, volumes}
		d = driver.New(driver.Config{
			// dockerd, or systemd, starts a plugin that ends with an error.
			Fatal:       fail,
			Layout:      a.layout(),
			Unlock:      open.Borrow,
			Started:     upgrade.LayersOpen,
			CryptParams: s.crypt(),
			DefaultSize: s.sizeBytes,
			Log:         log,
		})
		starting.Go(func() {
			// After a crash dockerd does not call Init again. A failure is told to
			// whoever asks next: the driver tries again at each request.
			if err := d.Resume(ctx); err != nil {
				log.Error("cannot take up where the last run ended", "error", err)
			}
			front.Open(d)
		})
	}
	var store *volume.Store
	starting.Go(func() {
		store = startVolumes(ctx, volumes, open, onlyVolumes, log)
		upgrade.VolumesOpen(store)
	})
	behind, stop := context.WithCancel(ctx)
	defer stop()
	starting.Go(func() { upgrade.Run(behind) })

	err = socket.Serve(ctx, l, drainTime, doors...)
	stop()
	starting.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, driver.ErrAstray) {
		err = errors.Join(err, cause)
	}
	log.Info("layervault stops")
	if d != nil {
		err = errors.Join(err, d.Close(context.WithoutCancel(ctx)))
	}
	if store != nil {
		err = errors.Join(err, store.Close())
	}
	return errors.Join(err, open.Close(), person.Close())
}

// startVolumes opens the volume store for its door. The vault may be locked: volumes are
// listed all the same.
func startVolumes(ctx context.Context, door *volumedoor.Server, v *vault.Vault, alone bool, log *slog.Logger) *volume.Store {
	if alone { // else the graph driver does so
		if err := crypt.Sweep(ctx); err != nil {
			log.Warn("cannot sweep devices that an earlier run left", "error", err)
		}
	}
	store, err := v.OpenVolumes(ctx)
	if err != nil {
		log.Error("no volumes can be served", "error", err)
		door.Refuse(err)
		return nil
	}
	if err := store.Heal(ctx); err != nil {
		log.Error("cannot look after mounts of an earlier run", "error", err)
	}
	door.Open(store)
	return store
}
