// Package snapshottertest starts snapshotters for tests: on plain images wherever there are loop
// devices and overlayfs, on encrypted ones where there is a device-mapper.
package snapshottertest

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/layer"
	"layervault/layer/layertest"
	"layervault/snapshotter"
)

// Size is the size of writable layers, in bytes: small, so that a test can fill one.
const Size = 64 << 20

// Images says how a store makes its images.
type Images func(cfg *layer.Config)

// Plain makes images without encryption.
func Plain(cfg *layer.Config) { cfg.Keys, cfg.Devices = layertest.Keys{}, layertest.Devices }

// Encrypted makes images as in production.
func Encrypted(cfg *layer.Config) {
	cfg.Keys, cfg.Devices = keys{}, layer.NewDevices(keys{}, crypt.CryptParams{}, crypt.VerityPrefer, cfg.Log)
	cfg.SweepDevices = crypt.Sweep
}

// keys derives passphrases as the key ring does, from a key that anyone could know.
type keys struct{ layertest.Keys }

// Passphrase implements layer.KeySource.
func (keys) Passphrase(_ int, kind, id, imageUUID string) ([]byte, error) {
	raw, err := hkdf.Key(sha256.New, []byte("a tier key for tests, of 32 bytes"), nil, "layervault/1/"+kind+"/"+id+"/"+imageUUID, 32)
	if err != nil {
		return nil, err
	}
	return hex.AppendEncode(nil, raw), nil
}

// Started is a snapshotter on a store of its own.
type Started struct {
	*snapshotter.Snapshotter
	Store *layer.Store
	Dir   string
	At    string // where images are attached
}

// Start opens the store and the snapshotter below dir.
func Start(ctx context.Context, dir string, log *slog.Logger, images Images) (*Started, error) {
	cfg := layer.Config{Root: filepath.Join(dir, "layers"), Scratch: filepath.Join(dir, "scratch"), Log: log}
	images(&cfg)
	store, err := layer.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	at := filepath.Join(dir, "m")
	s, err := snapshotter.New(ctx, snapshotter.Config{
		Dir: filepath.Join(dir, "snapshots"), Mounts: at, Layers: store, DefaultSize: Size, Linger: 200 * time.Millisecond, Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close(context.WithoutCancel(ctx)))
	}
	return &Started{Snapshotter: s, Store: store, Dir: dir, At: at}, nil
}

// Stop closes both, as the end of the process does.
func (s *Started) Stop() error {
	return errors.Join(s.Close(), s.Store.Close(context.Background()))
}

// Reboot detaches everything below the directory, as a reboot does.
func (s *Started) Reboot() error {
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return strings.HasPrefix(m.Mountpoint, s.Dir+"/") })
	if err != nil {
		return err
	}
	var errs []error
	for _, at := range mounts.Points(infos) {
		errs = append(errs, mounts.DetachAll(at))
	}
	return errors.Join(errs...)
}

// Attached lists the layers whose images are attached.
func (s *Started) Attached() (ids []string, err error) {
	infos, err := mounts.List(func(m *mountinfo.Info) bool { return filepath.Dir(m.Mountpoint) == s.At })
	for _, at := range mounts.Points(infos) {
		ids = append(ids, filepath.Base(at))
	}
	return ids, err
}
