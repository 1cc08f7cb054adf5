package snapshot_test

import (
	"context"
	"testing"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

// leaseServer is what of containerd's lease service a differ calls; containerd's own cannot be
// made without its plugins.
type leaseServer struct {
	leasesapi.UnimplementedLeasesServer
	manager leases.Manager
}

func (s *leaseServer) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	l, err := s.manager.Create(ctx, leases.WithID(r.ID), leases.WithLabels(r.Labels))
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: l.ID, Labels: l.Labels}}, errgrpc.ToGRPC(err)
}

func (s *leaseServer) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.manager.Delete(ctx, leases.Lease{ID: r.ID}))
}

// A garbage collection of containerd that came between Compare and the caller's first reference
// to the blob removed the blob: docker commit and the classic builder failed with "content
// digest ... not found".
func TestCompareBeforeCollection(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), "here")
	d := newDaemon(ctx, t)
	manager := metadata.NewLeaseManager(d.DB)
	engine, err := manager.Create(ctx, leases.WithRandomID()) // the snapshots' owner
	must(t, err)
	lower, upper := d.container(leases.WithLease(ctx, engine.ID), t)
	for range 2 { // the second blob is the first one
		out, err := d.served.differ.Compare(ctx, lower, upper, diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
		must(t, err)
		must(t, d.collect(ctx))
		_, err = content.ReadBlob(ctx, d.ContentStore(), out)
		must(t, err)
	}
	all, err := manager.List(ctx)
	must(t, err)
	for _, l := range all {
		if l.ID == engine.ID {
			continue
		}
		if end, err := time.Parse(time.RFC3339, l.Labels["containerd.io/gc.expire"]); err != nil || time.Until(end) > 2*time.Hour {
			t.Errorf("lease %+v has no near end: %v", l, err)
		}
	}
	if len(all) != 3 {
		t.Errorf("%d leases, want the snapshots' and one for each Compare", len(all))
	}
}

// A blob belongs to the lease that its request came with, and to no other.
func TestCompareUnderCallersLease(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), "here")
	d := newDaemon(ctx, t)
	manager := metadata.NewLeaseManager(d.DB)
	engine, err := manager.Create(ctx, leases.WithRandomID())
	must(t, err)
	leased := leases.WithLease(ctx, engine.ID)
	lower, upper := d.container(leased, t)
	out, err := d.served.differ.Compare(leased, lower, upper, diff.WithMediaType(ocispec.MediaTypeImageLayerGzip))
	must(t, err)
	must(t, d.collect(ctx))
	_, err = d.ContentStore().Info(ctx, out.Digest)
	must(t, err)
	must(t, manager.Delete(ctx, engine))
	must(t, d.collect(ctx))
	if _, err := d.ContentStore().Info(ctx, out.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the blob outlives its lease: %v", err)
	}
}

// container makes a base and a changed container, and gives what Compare takes.
func (d *daemon) container(ctx context.Context, t *testing.T) (lower, upper []mount.Mount) {
	t.Helper()
	sn := d.Snapshotter("layervault")
	_, err := sn.Prepare(ctx, "base", "")
	must(t, err)
	must(t, sn.Commit(ctx, "image", "base"))
	upper, err = sn.Prepare(ctx, "container", "image")
	must(t, err)
	lower, err = sn.View(ctx, "view", "image")
	must(t, err)
	return lower, upper
}

func (d *daemon) collect(ctx context.Context) error {
	_, err := d.GarbageCollect(ctx)
	return err
}
