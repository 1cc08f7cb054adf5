package driver

import (
	"context"
	"log/slog"

	"github.com/moby/sys/user"

	"layervault/crypt"
	"layervault/layer"
	"layervault/persist"
)

// Name is the driver's name: in docker info and before its storage options.
const Name = "layervault"

// SlotLister may be implemented by a crypt.KeySource that can say which key slots the
// vault has, one line each without secrets, for docker info.
type SlotLister interface {
	SlotSummaries() []string
}

// Config makes a Driver. Zero values of optional fields mean their defaults.
type Config struct {
	Layout persist.Layout
	// Unlock opens the vault. It is called until it succeeds once; the key source is
	// kept from then on, and closed by Close if it is an io.Closer.
	Unlock func(ctx context.Context) (crypt.KeySource, error)
	// CryptParams is how new images are encrypted.
	CryptParams crypt.Params
	// Verity is for sealed layers without a hash tree, where the store is the driver's own.
	Verity crypt.Verity
	// DefaultSize is the size of a writable layer in bytes where no size is asked for;
	// 0 for DefaultSize.
	DefaultSize int64
	// Scratch is where layer images are mounted out of sight, "" for
	// /run/layervault.
	Scratch string
	Log     *slog.Logger // nil for slog.Default()
	// Started is called with the layer store, after each Init and each resume; may be nil.
	Started func(*layer.Store)
	// Fatal is called with an error that only a restart of the plugin can fix; may be nil.
	Fatal func(error)

	// OpenStore opens the layer store with the open tier's keys, where other doors of the process
	// share it; nil for a store of the driver's own. Close closes either.
	OpenStore func(context.Context, crypt.KeySource) (*layer.Store, error)

	// Devices makes the images; nil for encrypted ones of package crypt.
	Devices func(crypt.KeySource) layer.Devices
	// SweepDevices clears leftover devices at the start; nil for crypt.Sweep.
	SweepDevices func(context.Context) error
	// Corrupted lists open images in which the kernel has read a changed block; nil for
	// crypt.Corrupted. See layer.Config.
	Corrupted func() ([]string, error)
	// Checkpoint is handed to the layer store; see layer.Config.
	Checkpoint func(op, id, step string) error
}

const (
	// DefaultSize is the size of a writable layer: sparse, so it costs nothing until
	// it is used, and as large as a build ever was seen to need.
	DefaultSize = 64 << 30
	// MinSize is the smallest writable layer: the LUKS2 header takes 1 MiB, ext4's
	// journal up to 4 MiB and its tables some more, so below this hardly anything is
	// left for content.
	MinSize = 16 << 20

	defaultScratch = "/run/layervault"
)

// Options is what dockerd says at Init.
type Options struct {
	Home    string       `json:"home"`           // where the merged mounts are shown
	Opts    []string     `json:"opts,omitempty"` // "key=value", from --storage-opt
	UIDMaps []user.IDMap `json:"uid_maps,omitempty"`
	GIDMaps []user.IDMap `json:"gid_maps,omitempty"`
}

// CreateOpts is what dockerd says of one new layer.
type CreateOpts struct {
	MountLabel string
	StorageOpt map[string]string
}
