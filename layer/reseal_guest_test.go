//go:build guest

package layer_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/layer"
	"layervault/layer/layertest"
)

// olderDevices make sealed images as earlier versions did, while old is set.
type olderDevices struct{ old bool }

func (o *olderDevices) devices(im layer.Image) layer.Device {
	now := layer.NewDevices(layertest.Keys{}, crypt.Params{}, crypt.VerityPrefer, nil)(im)
	if o.old {
		return olderDevice{now, im}
	}
	return now
}

type olderDevice struct {
	layer.Device
	im layer.Image
}

// Import makes an ext4 without a hash tree: there is none over sectors of 512 bytes.
func (d olderDevice) Import(ctx context.Context, tar io.Reader) (crypt.ImportResult, error) {
	owner := crypt.Owner{Kind: crypt.KindLayer, ID: d.im.Layer}
	im := crypt.Image{
		Path: d.im.Path, Owner: owner, Label: d.im.Layer, ReadOnly: true,
		Key: crypt.KeyFrom(func(context.Context) (crypt.KeySource, error) { return layertest.Keys{}, nil }, owner),
	}
	return im.Import(ctx, tar, crypt.Making{Params: crypt.Params{SectorSize: 512}, FileSystem: crypt.Ext4})
}

// TestResealEncrypted seals encrypted images anew while one of them is mounted, as below a
// container: the mount stays readable until it goes, the next open reads through dm-verity, and the
// old image is erased after its last user.
func TestResealEncrypted(t *testing.T) {
	ctx := t.Context()
	older := &olderDevices{old: true}
	cfg := imageConfig(t, "")
	cfg.Devices, cfg.SweepDevices = older.devices, crypt.Sweep
	s := open(t, cfg)
	addOld(t, s, "base", "")
	was := record(t, s, "base")
	must(t, s.Create(ctx, "top", "base", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20}))
	must(t, s.Create(ctx, "x", "", layer.CreateOptions{ReadWrite: true, DefaultSize: 128 << 20, Name: "a", State: layer.Active}))
	fillWritable(t, s, "x")
	must(t, s.Commit(ctx, "x", "b", ""))
	must(t, s.Create(ctx, "y", "x", layer.CreateOptions{ReadWrite: true, DefaultSize: 32 << 20, Name: "c", State: layer.Active}))
	older.old = false

	chain, err := s.Chain("y")
	must(t, err)
	held, err := s.Open(ctx, append(chain, was))
	must(t, err)
	shows := map[string][]string{"base": tree(t, held.Content(2)), "x": tree(t, held.Content(1))}
	file, err := os.Open(filepath.Join(held.Content(2), "large"))
	must(t, err)
	container := t.TempDir() // a mount outside of the store, as a container's
	must(t, unix.Mount(held.Content(1), container, "", unix.MS_BIND, ""))
	for id := range shows {
		done, err := s.Reseal(ctx, id)
		must(t, err)
		if !done.Done {
			t.Error(id, "nothing was done")
		}
		t.Logf("%s: %d bytes, then %d", id, done.Before, done.After)
	}
	for id, n := range map[string]int{"base": 2, "x": 1} {
		if d := cmp.Diff(shows[id], tree(t, held.Content(n))); d != "" {
			t.Error("the open image:", d)
		}
		if d := cmp.Diff(shows[id], shown(t, s, id)); d != "" {
			t.Error("the new image:", d)
		}
		if fileSystem(t, s, id) != unix.EROFS_SUPER_MAGIC_V1 {
			t.Error(id, "has another file system than EROFS")
		}
	}
	must(t, os.WriteFile(filepath.Join(held.Content(0), "written"), []byte("still"), 0o600)) // the container goes on
	v, err := s.Open(ctx, []layer.Record{record(t, s, "base")})
	must(t, err)
	if name := crypt.VerityName(record(t, s, "base").UUID); !exists(t, name) {
		t.Error("the new image is open without", name)
	}
	must(t, v.Close(ctx))
	must(t, held.Close(ctx))
	if left, err := s.EraseReplaced(ctx); err != nil || left != 2 {
		t.Errorf("while the old images are open: %d, %v", left, err)
	}
	s = reopen(t, s, cfg) // the sweep leaves them too
	var b [16]byte
	if _, err := file.ReadAt(b[:], 100<<10); err != nil || string(b[:]) != "0123456789abcdef" {
		t.Errorf("the open file: %q, %v", b, err)
	}
	if d := cmp.Diff(shows["x"], tree(t, container)); d != "" {
		t.Error("after a restart:", d)
	}
	must(t, errors.Join(file.Close(), unix.Unmount(container, 0)))
	if left, err := s.EraseReplaced(ctx); err != nil || left != 0 {
		t.Errorf("after the last user: %d, %v", left, err)
	}
	wantClean(t, cfg.Root)
	if now := record(t, s, "base"); now.Replaces != "" || now.Size != was.Size || now.UUID == was.UUID {
		t.Errorf("%+v, was %+v", now, was)
	}
	for _, id := range []string{"y", "top"} {
		if chain, err := s.Chain(id); err != nil || len(chain) != 2 {
			t.Errorf("chain of %s: %d, %v", id, len(chain), err)
		}
	}
}

// exists says whether there is a device-mapper device of that name.
func exists(t *testing.T, name string) bool {
	files, err := filepath.Glob("/sys/block/dm-*/dm/name")
	must(t, err)
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == name {
			return true
		}
	}
	return false
}
