package ext4

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// The exit codes of e2fsck are bits; see e2fsck(8).
const (
	fsckCorrected   = 1 // repaired
	fsckReboot      = 2 // repaired while mounted: does not occur here
	fsckUncorrected = 4 // damage is left
)

// Check repairs a writable file system after an unclean unmount: e2fsck -p replays the
// journal and makes all safe repairs. A clean file system is not touched. It reports
// whether it ran.
//
// ErrNeedsRepair if the repair needs a person's decision.
func Check(ctx context.Context, device string) (ran bool, err error) {
	f, err := os.Open(device)
	if err != nil {
		return false, err
	}
	s, err := ReadSuper(f)
	_ = f.Close()
	if err != nil {
		return false, fmt.Errorf("%s: %w", device, err)
	}
	if s.Clean {
		return false, nil
	}
	err = run(ctx, nil, "e2fsck", "-p", device)
	failed, ok := errors.AsType[*toolError](err)
	switch {
	case !ok:
		return true, err
	case failed.code >= 0 && failed.code&^(fsckCorrected|fsckReboot) == 0:
		return true, nil
	case failed.code >= 0 && failed.code&fsckUncorrected != 0:
		return true, fmt.Errorf("%s: %w: %w", device, ErrNeedsRepair, err)
	default:
		return true, fmt.Errorf("%s: %w: %w", device, ErrCheck, err)
	}
}
