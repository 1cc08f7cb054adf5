package areatest

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
)

// As runs a command as a user of that number, who is in no group but that of the same number.
func As(ctx context.Context, uid uint32, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s as %d: %w: %s", name, uid, err, out)
	}
	return nil
}
