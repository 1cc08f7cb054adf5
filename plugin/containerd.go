package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"layervault/layer"
	"layervault/persist"
	door "layervault/plugin/snapshot"
	"layervault/snapshotter"
	"layervault/vault"
)

// Containerd says how snapshots are served.
type Containerd struct {
	// Listeners are the sockets for containerd's proxy plugins, and what each serves.
	Listeners []Listener
	// Socket is containerd's own: the differ reads blobs there.
	Socket string
	Layout persist.Layout
	// Mounts and DefaultSize are those of snapshotter.Config.
	Mounts      string
	DefaultSize int64
	// Scratch is that of layer.Config. It must not be above Mounts: what is mounted there is
	// seen by this process alone.
	Scratch string
}

// Listener is a socket and what it serves.
type Listener struct {
	net.Listener
	Services door.Service
}

// snapshots is the door for containerd and what is behind it.
type snapshots struct {
	cfg    Containerd
	vault  *vault.Vault
	all    Config
	opened func(*layer.Store)
	door   *door.Server

	mu    sync.Mutex
	store *layer.Store
	snaps *snapshotter.Snapshotter
	blobs *door.Content
}

// newSnapshots makes the door; opened is called with the layer store once it is open.
func newSnapshots(ctx context.Context, cfg Config, opened func(*layer.Store)) *snapshots {
	s := &snapshots{cfg: *cfg.Containerd, vault: cfg.Vault, all: cfg, opened: opened}
	s.door = door.New(ctx, door.Config{Open: s.open, NextStep: cfg.NextStep, Log: cfg.Log})
	return s
}

// open opens the vault, its layers and the snapshotter. The door calls it until it succeeds.
func (s *snapshots) open(ctx context.Context) (_ *door.Backend, err error) {
	keys, err := s.vault.Borrow(ctx)
	if err != nil {
		return nil, fmt.Errorf("unlock the vault: %w", err)
	}
	store, err := s.vault.Layers(ctx, keys, s.cfg.Scratch)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = store
	snaps, err := snapshotter.New(ctx, snapshotter.Config{
		Dir: s.cfg.Layout.Snapshots(persist.Vault), Mounts: s.cfg.Mounts, Layers: store, DefaultSize: s.cfg.DefaultSize, Log: s.all.Log,
	})
	if err != nil {
		return nil, err
	}
	blobs, err := door.NewContent(s.cfg.Socket)
	if err != nil {
		return nil, errors.Join(err, snaps.Close())
	}
	s.snaps, s.blobs = snaps, blobs
	s.opened(store)
	return &door.Backend{Snapshotter: snaps, Differ: snapshotter.NewDiffer(snaps, blobs)}, nil
}

// close closes what open opened. The layer store may be closed by the graph driver too.
func (s *snapshots) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	if s.snaps != nil {
		errs = append(errs, s.snaps.Close(), s.blobs.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close(ctx))
	}
	return errors.Join(errs...)
}
