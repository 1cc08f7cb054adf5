package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/doctor"
	"layervault/engine"
	"layervault/migrate"
	"layervault/migrate/docker"
	"layervault/persist"
)

// errNotRemoved: the answer of the person was not yes.
var errNotRemoved = errors.New("nothing was removed")

// migration is what a person chooses for the verbs of migrate.
type migration struct {
	from, to, dir            string
	pull, dangling           bool
	clear, anySpace, skipAsk bool
}

func newMigrateCommand(a *app) *cobra.Command {
	return group("migrate", "Move the images of one docker engine to another", newMigratePlanCommand(a), newMigrateRunCommand(a), newMigrateCleanCommand(a))
}

func newMigratePlanCommand(a *app) *cobra.Command {
	m := &migration{}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what migrate run would do",
		Long: `Show what "layervault migrate run" with the same flags would do: each image, the space, and
what is not moved: containers with what they need, volumes, networks. Nothing is changed.

The exit status is that of the first problem: 7 for too little space, 5 for a tag that is
another image on the new engine.`,
		Example: "  layervault migrate plan --from unix:///run/docker-old.sock --to unix:///run/docker.sock",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.migratePlan(cmd.Context(), m) },
	}
	m.engines(cmd)
	m.choices(cmd)
	return cmd
}

func newMigrateRunCommand(a *app) *cobra.Command {
	m := &migration{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Move the images, one by one",
		Long: `Move images from one docker engine to another, one by one: from the graph driver (Docker
20.10 to 27) to the snapshotter (Docker 29). With both --from and --to each image is saved by
the one engine and loaded by the other. With one of them alone, for engines that cannot run at
the same time, the images go to the folder --dir, or come from there.

Both engines must then tell the same of the image: digests of the layers, configuration. An
image with several tags is moved once. Images without any name are left (--dangling moves
them). With --pull, what came from a registry is pulled by its digest, and moved like the
others if that fails. Digests of registries stay known only to images that are pulled.

Nothing is removed. A run that was broken off goes on when the command is run again.

Containers are not moved. Their configuration, and that of networks and volumes, is written to
DIR/containers, DIR/networks.json and DIR/volumes.json; DIR/containers/create.txt has a docker
create line for each, as a help and not a promise. What a container wrote into its own layer
stays behind: make an image of it before, with docker commit.

DIR then holds images and secrets, so it must be on a volume of the vault.`,
		Example: `  layervault migrate run --from unix:///run/docker-old.sock --to unix:///run/docker.sock --dir /mnt
  layervault migrate run --from unix:///run/docker.sock --dir /mnt    # then change the engine
  layervault migrate run --to unix:///run/docker.sock --dir /mnt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.migrateRun(cmd.Context(), m) },
	}
	m.engines(cmd)
	m.choices(cmd)
	cmd.Flags().BoolVar(&m.anySpace, "no-space-check", false, "begin although there seems to be too little space")
	return cmd
}

func newMigrateCleanCommand(a *app) *cobra.Command {
	m := &migration{}
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove from the old engine, or the folder, what was moved",
		Long: `Remove images from the old engine (--from), and their tars from the folder, after asking. Only
images go that "layervault migrate run" verified, and of which the new engine still tells the
same. What a container needs stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.migrateClean(cmd.Context(), m) },
	}
	m.engines(cmd)
	cmd.Flags().BoolVar(&m.skipAsk, "yes", false, "do not ask")
	return cmd
}

// engines adds the flags that say what is moved where.
func (m *migration) engines(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&m.from, "from", "", "address of the old engine, unix:///PATH")
	f.StringVar(&m.to, "to", "", "address of the new engine, unix:///PATH")
	f.StringVar(&m.dir, "dir", "", "folder of the migration, on a volume of the vault")
	f.BoolVar(&m.clear, "clear", false, "accept an engine or a folder where everything lies in the clear")
}

// choices adds the flags that say which images, and how.
func (m *migration) choices(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&m.pull, "pull", false, "pull by digest what came from a registry")
	f.BoolVar(&m.dangling, "dangling", false, "images without any name too")
}

// open connects to the engines.
func (m *migration) open(ctx context.Context, a *app) (*migrate.Migration, error) {
	if m.from == "" && m.to == "" {
		return nil, usagef("name an engine: --from unix:///PATH, --to unix:///PATH, or both")
	}
	var host engine.Host
	out := &migrate.Migration{
		Dir: m.dir, Pull: m.pull, Dangling: m.dangling, Clear: m.clear, AnySpace: m.anySpace,
		Host: migrate.Host{Vault: a.layout().Tier(persist.Vault), Content: host.Find(ctx).Root(), OnVault: doctor.OnVault},
	}
	for _, side := range []struct {
		name, address string
		engine        *migrate.Engine
	}{{"old", m.from, &out.From}, {"new", m.to, &out.To}} {
		if side.address == "" {
			continue
		}
		client, err := docker.Dial(ctx, side.address)
		if err != nil {
			return nil, fmt.Errorf("%s engine: %w", side.name, err)
		}
		*side.engine = client
	}
	return out, nil
}

// needsDir wants the folder.
func (m *migration) needsDir() error {
	if m.dir == "" {
		return usagef("name the folder of the migration: --dir DIR")
	}
	return nil
}

func (a *app) migratePlan(ctx context.Context, m *migration) error {
	if m.from == "" || m.to == "" {
		if err := m.needsDir(); err != nil {
			return err
		}
	}
	open, err := m.open(ctx, a)
	if err != nil {
		return err
	}
	plan, err := open.Plan(ctx)
	if plan == nil {
		return err
	}
	return errors.Join(a.printPlan(plan), err)
}

func (a *app) migrateRun(ctx context.Context, m *migration) error {
	if err := m.needsDir(); err != nil {
		return err
	}
	open, err := m.open(ctx, a)
	if err != nil {
		return err
	}
	report, err := open.Run(ctx, a.progress("done with"))
	if report == nil {
		return err
	}
	return errors.Join(a.printMigrated(report), err)
}

func (a *app) migrateClean(ctx context.Context, m *migration) error {
	if err := m.needsDir(); err != nil {
		return err
	}
	if m.to == "" {
		return usagef("name the new engine, which must still have the images: --to unix:///PATH")
	}
	open, err := m.open(ctx, a)
	if err != nil {
		return err
	}
	list, err := open.Removable(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return a.result([]migrate.Removable{}, "nothing to remove\n")
	}
	if err := a.askRemoval(list, m.skipAsk); err != nil {
		return err
	}
	removed := []migrate.Removable{}
	var errs []error
	for _, r := range list {
		if err := open.Clean(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Name(), err))
			continue
		}
		removed = append(removed, r)
		if !a.json {
			errs = append(errs, a.printf("removed %s\n", r.Name()))
		}
	}
	if a.json {
		errs = append(errs, a.printJSON(removed))
	}
	return errors.Join(errs...)
}

// askRemoval shows what is to be removed, and asks.
func (a *app) askRemoval(list []migrate.Removable, yes bool) error {
	if yes {
		return nil
	}
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "  %s\n", strings.Join(append([]string{r.Name()}, r.Names[min(1, len(r.Names)):]...), ", "))
	}
	fmt.Fprintf(&b, "Remove these %d images from the old engine and the folder?", len(list))
	if remove, err := a.confirm(b.String()); remove || err != nil {
		return err
	}
	return errNotRemoved
}
