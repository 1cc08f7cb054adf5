package volumetest

import (
	"slices"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// UnmountBelow unmounts everything below a folder, as a reboot does.
func UnmountBelow(t testing.TB, dir string) {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(infos, func(a, b *mountinfo.Info) int { return b.ID - a.ID })
	for _, m := range infos {
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH) // what lay below another is gone with it
	}
}
