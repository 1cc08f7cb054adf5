package snapshot

import (
	"context"
	"errors"
	"fmt"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// List asks the door at a socket for all of its snapshots.
func List(ctx context.Context, socket string) (infos []snapshots.Info, err error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", socket, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	err = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "layervault").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		infos = append(infos, info)
		return nil
	})
	return infos, err
}
