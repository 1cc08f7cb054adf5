package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"layervault/keys/unlock"
	"layervault/persist"
	"layervault/plugin"
	"layervault/plugin/snapshot"
	"layervault/plugin/socket"
	"layervault/vault"
)

// A service whose vault does not open serves all the same: it says why, and ends when it is told.
func TestServeLocked(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l, err := socket.Listen(ctx, filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	layout := persist.Layout{Root: filepath.Join(dir, "persist")}
	log := slog.New(slog.DiscardHandler)
	open := vault.New(vault.Config{
		Layout: layout, Log: log,
		Keys: func(tier persist.Tier) unlock.Config { return unlock.Config{Tier: layout.Tier(tier), Log: log} },
	})
	done := make(chan error, 1)
	go func() {
		done <- plugin.Serve(ctx, nil, plugin.Config{
			Vault: open, Log: log, NextStep: func(error) string { return "choose a key" },
			Containerd: &plugin.Containerd{
				Listeners: []plugin.Listener{{Listener: l, Services: snapshot.Snapshots}}, Layout: layout,
				Mounts: filepath.Join(dir, "m"), Scratch: filepath.Join(dir, "scratch"), Socket: filepath.Join(dir, "containerd.sock"),
			},
		})
	}()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "s.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "layervault")
	for range 2 {
		err := client.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "next: choose a key") {
			t.Errorf("a locked vault: %v", err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("the end: %v", err)
	}
}
