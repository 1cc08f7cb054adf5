package engine

import (
	"context"
	"fmt"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	version "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxAnswer bounds an answer, as containerd's own client does.
const maxAnswer = 16 << 20

// Client asks a running containerd.
type Client struct{ conn *grpc.ClientConn }

// Dial makes a client of the containerd at a socket. It connects with the first question.
func Dial(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("containerd's socket %s: %w", socket, err)
	}
	return &Client{conn}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Version is the version of the running containerd.
func (c *Client) Version(ctx context.Context) (string, error) {
	res, err := version.NewVersionClient(c.conn).Version(ctx, &emptypb.Empty{})
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	return res.GetVersion(), nil
}

// Plugin is a plugin that a running containerd has loaded.
type Plugin struct {
	Type, ID string
	Exports  map[string]string
	Error    string // why it does not work, "" if it does
}

// The types of plugins that layervault is.
const (
	TypeSnapshotter = "io.containerd.snapshotter.v1"
	TypeDiffer      = "io.containerd.differ.v1"
)

// Plugins lists the plugins of the running containerd.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	res, err := introspection.NewIntrospectionClient(c.conn).Plugins(ctx, &introspection.PluginsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for its plugins: %w", err)
	}
	list := make([]Plugin, 0, len(res.GetPlugins()))
	for _, p := range res.GetPlugins() {
		list = append(list, Plugin{Type: p.GetType(), ID: p.GetID(), Exports: p.GetExports(), Error: p.GetInitErr().GetMessage()})
	}
	return list, nil
}
