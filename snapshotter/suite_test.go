package snapshotter_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
)

// TestSuite runs containerd's own suite. Its name says to leave out the renaming of a lower's
// directory, which no overlayfs does without redirect_dir.
func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, _, stop, err := start(ctx, root, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, nil, err
		}
		return s, func() error { return errors.Join(stop(), reboot(root)) }, nil
	})
}
