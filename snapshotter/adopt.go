package snapshotter

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// adopt takes over the images that an earlier process attached: those that active snapshots
// and views show stay, the others go. Where nothing is attached, as after a reboot, no record
// is read.
func (s *Snapshotter) adopt(ctx context.Context) error {
	attached, err := s.attached.list()
	if err != nil || len(attached) == 0 {
		return err
	}
	infos, err := s.db.walk(ctx, "kind==active", "kind==view")
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := s.adoptSnapshot(ctx, info); err != nil {
			s.log.WarnContext(ctx, "a snapshot of an earlier run cannot be mounted", "snapshot", info.Name, "error", err)
		}
	}
	for _, id := range attached {
		if !s.attached.isShown(id) {
			if err := s.attached.evict(ctx, id); err != nil {
				s.log.WarnContext(ctx, "cannot detach the image of a layer that no snapshot shows", "layer", id, "error", err)
			}
		}
	}
	return nil
}

func (s *Snapshotter) adoptSnapshot(ctx context.Context, info snapshots.Info) error {
	_, chain, err := s.verifiedChain(ctx, info.Name)
	if err != nil {
		return err
	}
	s.attached.show(chain[0].ID, withImages(chain))
	return nil
}

// isShown says whether a snapshot shows a layer.
func (a *attachments) isShown(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.shown[id]) > 0
}
