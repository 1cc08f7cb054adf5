package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leaseproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Content is containerd's content store, through its socket. It connects when it is first used,
// and again when containerd was restarted.
type Content struct {
	content.Store
	leases leases.Manager
	conn   *grpc.ClientConn
}

// NewContent makes a content store of the containerd that listens at a socket.
func NewContent(socket string) (*Content, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd's socket %s: %w", socket, err)
	}
	return &Content{
		Store: proxy.NewContentStore(conn), leases: leaseproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)), conn: conn,
	}, nil
}

// Close closes the connection.
func (c *Content) Close() error { return c.conn.Close() }

// passOn gives the namespace of a request that came in to one that goes out.
func passOn(ctx context.Context) context.Context {
	if name, ok := namespaces.Namespace(ctx); ok {
		return namespaces.WithNamespace(ctx, name)
	}
	return ctx
}

// leaseTime is how long containerd's garbage collection leaves a blob of ours alone, if nothing
// refers to the blob by then. The engine that asked for the blob unpacks the blob and writes a
// manifest meanwhile: minutes, if layers are large and the disk slow.
const leaseTime = time.Hour

// lease is what a blob is written under: the lease that the request came with, or a new one.
// containerd calls a differ behind a socket without the lease of containerd's own caller, and a
// collection that came between the blob's commit and the caller's first reference would remove
// the blob. undo removes a new one.
func (c *Content) lease(ctx context.Context) (id string, undo func() error, err error) {
	if id, ok := leases.FromContext(ctx); ok {
		return id, func() error { return nil }, nil
	}
	ctx = passOn(ctx)
	l, err := c.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return "", nil, fmt.Errorf("make a lease at containerd: %w", err)
	}
	return l.ID, func() error { return c.leases.Delete(context.WithoutCancel(ctx), l) }, nil
}

// ReaderAt implements content.Provider.
func (c *Content) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	return c.Store.ReaderAt(passOn(ctx), desc)
}

// Writer implements content.Ingester. What is written stays for leaseTime at least.
func (c *Content) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	lease, undo, err := c.lease(ctx)
	if err != nil {
		return nil, err
	}
	w, err := c.Store.Writer(leases.WithLease(passOn(ctx), lease), opts...)
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return w, nil
}

// Abort implements content.IngestManager.
func (c *Content) Abort(ctx context.Context, ref string) error {
	return c.Store.Abort(passOn(ctx), ref)
}

// Info implements content.InfoProvider.
func (c *Content) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	return c.Store.Info(passOn(ctx), dgst)
}

// Update implements content.Manager.
func (c *Content) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	return c.Store.Update(passOn(ctx), info, fieldpaths...)
}
