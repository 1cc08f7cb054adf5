package snapshot_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	imagetypes "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"layervault/layer"
	"layervault/plugin/snapshot"
	"layervault/snapshotter/snapshottertest"
)

// daemon is what of containerd stands around a snapshotter: its metadata, with namespaces and
// garbage collection, and its content service.
type daemon struct {
	*metadata.DB
	served  *served
	started atomic.Pointer[snapshottertest.Started]
	count   snapshottertest.Count
}

func newDaemon(ctx context.Context, t *testing.T) *daemon {
	t.Helper()
	dir := folder(t)
	d := &daemon{}
	path := filepath.Join(dir, "containerd.sock")
	blobs, err := snapshot.NewContent(path)
	must(t, err)
	d.served, err = serve(ctx, dir, snapshot.Config{Open: behindOf(dir, blobs, &d.started, d.count.Of(images))})
	must(t, err)
	store, err := local.NewStore(filepath.Join(dir, "content"))
	must(t, err)
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	must(t, err)
	d.DB = metadata.NewDB(meta, store, map[string]snapshots.Snapshotter{"layervault": d.served.Snapshotter})
	must(t, d.Init(ctx))
	server := grpc.NewServer()
	contentapi.RegisterContentServer(server, contentserver.New(d.ContentStore()))
	leasesapi.RegisterLeasesServer(server, &leaseServer{manager: metadata.NewLeaseManager(d.DB)})
	l, err := net.Listen("unix", path)
	must(t, err)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		must(t, errors.Join(d.served.stop(), blobs.Close()))
		server.Stop()
		started := d.started.Load()
		must(t, errors.Join(started.Stop(), started.Reboot(), meta.Close()))
	})
	return d
}

// image stores an image of gzipped layers and returns its manifest and its top chain ID.
func (d *daemon) image(ctx context.Context, t *testing.T, layers ...[]byte) (ocispec.Descriptor, string) {
	t.Helper()
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		must(t, content.WriteBlob(ctx, d.ContentStore(), desc.Digest.String(), bytes.NewReader(data), desc))
		return desc
	}
	encode := func(mediaType string, v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		must(t, err)
		return put(mediaType, data)
	}
	var packed []ocispec.Descriptor
	var diffIDs []digest.Digest
	for _, data := range layers {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(data)
		must(t, errors.Join(err, w.Close()))
		packed = append(packed, put(ocispec.MediaTypeImageLayerGzip, out.Bytes()))
		diffIDs = append(diffIDs, digest.FromBytes(data))
	}
	config := encode(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platforms.DefaultSpec(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	manifest := encode(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: packed,
	})
	return manifest, identity.ChainID(diffIDs).String()
}

// unpack does what a pull does once the blobs are there.
func (d *daemon) unpack(ctx context.Context, manifest ocispec.Descriptor, parallel bool, applier diff.Applier) error {
	p := unpack.Platform{Platform: platforms.All, SnapshotterKey: "layervault", Snapshotter: d.Snapshotter("layervault"), Applier: applier}
	opts := []unpack.UnpackerOpt{}
	if parallel {
		p.SnapshotterCapabilities = []string{"rebase"}
		opts = append(opts, unpack.WithUnpackLimiter(semaphore.NewWeighted(3)))
	}
	u, err := unpack.NewUnpacker(ctx, d.ContentStore(), append(opts, unpack.WithUnpackPlatform(p))...)
	if err != nil {
		return err
	}
	children := imagetypes.ChildrenHandler(d.ContentStore())
	if err := imagetypes.Dispatch(ctx, u.Unpack(children), nil, manifest); err != nil {
		return err
	}
	_, err = u.Wait()
	return err
}

func layerOf(t *testing.T, files ...string) []byte {
	t.Helper()
	data, err := snapshottertest.LayerTar(files...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestUnpack unpacks an image by containerd's own code, layer after layer and several at once,
// by our differ and by its own, makes a container's snapshot of it, and lets containerd collect
// everything.
func TestUnpack(t *testing.T) {
	for _, c := range []struct{ parallel, ours bool }{{false, true}, {true, true}, {false, false}, {true, false}} {
		t.Run(fmt.Sprintf("parallel %t, our differ %t", c.parallel, c.ours), func(t *testing.T) {
			ctx := namespaces.WithNamespace(t.Context(), "here")
			d := newDaemon(ctx, t)
			layers := [][]byte{layerOf(t, "base"), layerOf(t, "kept", "deleted"), layerOf(t, ".wh.deleted", "top")}
			manifest, chain := d.image(ctx, t, layers...)
			applier, kind := diff.Applier(d.served.differ), layer.Sealed
			if !c.ours {
				applier, kind = apply.NewFileSystemApplier(d.ContentStore()), layer.Writable
			}
			must(t, d.unpack(ctx, manifest, c.parallel, applier))
			must(t, d.unpack(ctx, manifest, c.parallel, applier)) // nothing to do
			switch made := int(d.count.Writable.Load()); {
			case c.ours && !c.parallel && made != 1:
				t.Errorf("%d writable images were made, one is needed", made)
			case !c.ours && made != len(layers):
				t.Errorf("%d writable images were made, %d are needed", made, len(layers))
			}
			store := d.started.Load().Store
			records, err := store.List(ctx)
			must(t, err)
			for _, r := range records {
				if r.Kind != kind || r.State != layer.Committed || !strings.HasPrefix(r.Name, "here/") {
					t.Errorf("layer %+v", r)
				}
			}
			if len(records) != len(layers) {
				t.Errorf("%d layers", len(records))
			}
			sn := d.Snapshotter("layervault")
			m, err := sn.Prepare(ctx, "container", chain)
			must(t, err)
			at := t.TempDir()
			must(t, mount.All(m, at))
			entries, err := os.ReadDir(at)
			must(t, errors.Join(err, unix.Unmount(at, 0)))
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if got := strings.Join(names, " "); got != "base kept top" {
				t.Errorf("the container sees %q", got)
			}
			// Nothing refers to any of it.
			if _, err := d.GarbageCollect(ctx); err != nil {
				t.Fatal(err)
			}
			if ids, err := store.IDs(); err != nil || len(ids) != 0 {
				t.Errorf("layers left: %v, %v", ids, err)
			}
		})
	}
}
