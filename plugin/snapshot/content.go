package snapshot

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
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
	conn *grpc.ClientConn
}

// NewContent makes a content store of the containerd that listens at a socket.
func NewContent(socket string) (*Content, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd's socket %s: %w", socket, err)
	}
	return &Content{Store: proxy.NewContentStore(conn), conn: conn}, nil
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

// ReaderAt implements content.Provider.
func (c *Content) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	return c.Store.ReaderAt(passOn(ctx), desc)
}

// Writer implements content.Ingester.
func (c *Content) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	return c.Store.Writer(passOn(ctx), opts...)
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
