package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leaseproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// namespace of containerd that everything measured lies in.
const namespace = "bench"

// containerd is a client of a running one.
type containerd struct {
	socket string
	conn   *grpc.ClientConn
	blobs  content.Store
	leases leases.Manager
	differ diff.Applier
}

func newContainerd(socket string) (*containerd, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("containerd's socket %s: %w", socket, err)
	}
	return &containerd{
		socket: socket,
		conn:   conn,
		blobs:  contentproxy.NewContentStore(contentapi.NewContentClient(conn)),
		leases: leaseproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)),
		differ: diffproxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(diff.Applier),
	}, nil
}

func (c *containerd) snapshotter(name string) snapshots.Snapshotter {
	return snapshotproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(c.conn), name)
}

func (c *containerd) version(ctx context.Context) (string, error) {
	res, err := version.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", fmt.Errorf("containerd's version: %w", err)
	}
	return "containerd " + res.GetVersion(), nil
}

// leased calls f under a lease of its own. What f made is gone when leased returns: deleting the
// lease waits for a collection.
func (c *containerd) leased(ctx context.Context, f func(ctx context.Context) error) error {
	l, err := c.leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	err = f(leases.WithLease(ctx, l.ID))
	if removeErr := c.leases.Delete(ctx, l, leases.SynchronousDelete); err == nil {
		err = removeErr
	}
	return err
}

// blob is a layer in the content store.
type blob struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
}

// put stores a layer tar, packed by pack or as it is.
func (c *containerd) put(ctx context.Context, tar []byte, pack func([]byte) ([]byte, error)) (blob, error) {
	data, kind := tar, ocispec.MediaTypeImageLayer
	if pack != nil {
		var err error
		if data, err = pack(tar); err != nil {
			return blob{}, err
		}
		kind = ocispec.MediaTypeImageLayerGzip
	}
	b := blob{desc: ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(data), Size: int64(len(data))}, diffID: digest.FromBytes(tar)}
	return b, content.WriteBlob(ctx, c.blobs, b.desc.Digest.String(), bytes.NewReader(data), b.desc)
}

// unpack does what a pull does once the blobs are there, and returns the name of the top snapshot.
func (c *containerd) unpack(ctx context.Context, snapshotter string, layers []blob) (string, error) {
	sn := c.snapshotter(snapshotter)
	var diffIDs []digest.Digest
	parent := ""
	for _, l := range layers {
		diffIDs = append(diffIDs, l.diffID)
		name := identity.ChainID(diffIDs).String()
		key := "extract " + name
		mounts, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": name}))
		if err != nil {
			return "", fmt.Errorf("prepare: %w", err)
		}
		got, err := c.differ.Apply(ctx, l.desc, mounts)
		if err != nil {
			return "", fmt.Errorf("apply: %w", err)
		}
		if got.Digest != l.diffID {
			return "", fmt.Errorf("apply: the layer's digest is %s, want %s", got.Digest, l.diffID)
		}
		if err := sn.Commit(ctx, name, key); err != nil {
			return "", fmt.Errorf("commit: %w", err)
		}
		parent = name
	}
	return parent, nil
}

// ctr runs containerd's own client.
func (c *containerd) ctr(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", c.socket, "--namespace", namespace}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func inNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}
