package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"layervault/driver"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/persist"
	"layervault/plugin/graph"
	"layervault/plugin/mountns"
	"layervault/plugin/socket"
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
	var s settings
	var path string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer dockerd: the graph driver plugin",
		Long: `Answer dockerd on a socket: the graph driver plugin.

Each setting is a flag, or else the environment variable of the same name, which is
how "docker plugin set layervault key=tpm" arrives. The first start makes the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			return a.serve(cmd.Context(), path, s)
		},
	}
	cmd.Flags().StringVar(&path, "socket", defaultSocket, "socket to answer on")
	s.register(cmd.Flags(), a.env)
	return cmd
}

// serve answers on the socket until ctx ends. It listens before it opens the
// vault: dockerd takes a plugin for dead that does not accept within seconds, and a
// TPM or a sweep after a crash may take longer.
func (a *app) serve(ctx context.Context, path string, s settings) error {
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

	front := graph.New(log)
	h := sdk.NewHandler(graph.Manifest(graph.Implements))
	front.Register(h)

	person := handover.New(a.layout().Tier(persist.Vault), log)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d := driver.New(driver.Config{
		// dockerd, or systemd, starts a plugin that ends with an error.
		Fatal:       fail,
		Layout:      a.layout(),
		Unlock:      func(ctx context.Context) (driver.KeySource, error) { return a.openVault(ctx, s, person, log) },
		CryptParams: s.crypt(),
		DefaultSize: s.sizeBytes,
		Log:         log,
	})
	started := make(chan struct{})
	go func() {
		defer close(started)
		// After a crash dockerd does not call Init again. A failure is told to
		// whoever asks next: the driver tries again at each request.
		if err := d.Resume(ctx); err != nil {
			log.Error("cannot take up where the last run ended", "error", err, "hint", nextStep(err))
		}
		front.Open(d)
	}()

	err = socket.Serve(ctx, l, h, func() error {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		return front.Drain(drain)
	})
	<-started
	if cause := context.Cause(ctx); errors.Is(cause, driver.ErrAstray) {
		err = errors.Join(err, cause)
	}
	log.Info("layervault stops")
	return errors.Join(err, d.Close(context.WithoutCancel(ctx)), person.Close())
}
