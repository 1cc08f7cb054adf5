package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"layervault/crypt"
)

// The TPM's PCRs and the vault's key vouch for what the initrd holds, and for what lies in
// the vault. What runs between the two, and what tells docker what to run, is vouched for by
// neither: the root file system, and docker's data-root.

// checkDataRoot looks where dockerd keeps containers' configuration and managed plugins.
func checkDataRoot(ctx context.Context, socket string) Finding {
	dir, err := dockerRoot(ctx, socket)
	if err != nil {
		return warn("systemctl start docker, then: layervault doctor", "no engine says where its data-root is: %v", err)
	}
	m, err := mountOf(dir)
	if err != nil {
		return warn("run doctor on the host, outside of containers", "data-root %s: %v", dir, err)
	}
	return judgeDataRoot(dir, m, dmAttribute(m.Source, "name"), strings.HasPrefix(m.Source, "/dev/") && isEncrypted(m.Source))
}

// OnVault says whether a folder is on a volume of layervault: whether what is written there is
// encrypted with a key of the vault.
func OnVault(dir string) (bool, error) {
	m, err := mountOf(dir)
	if err != nil {
		return false, err
	}
	return strings.HasPrefix(dmAttribute(m.Source, "name"), crypt.DeviceName("")), nil
}

// judgeDataRoot says what a data-root is worth on that mount; name is that of its
// device-mapper device, "" for none.
func judgeDataRoot(dir string, m *mountinfo.Info, name string, encrypted bool) Finding {
	switch {
	case strings.HasPrefix(name, crypt.DeviceName("")):
		return ok("%s on a volume of layervault (%s)", dir, m.Mountpoint)
	case encrypted:
		return ok("%s on an encrypted disk that is not layervault's (%s)", dir, m.Source)
	}
	return warn("layervault volume mount docker-root "+dir+" before docker starts: layervault help install, \"Against an evil maid\"",
		"%s is not on a layervault volume (%s on %s): who writes to the switched-off disk changes there what containers and managed plugins do, and reads what docker itself keeps",
		dir, m.FSType, m.Source)
}

// checkRoot looks whether somebody vouches for the root file system.
func checkRoot() Finding {
	m, err := mountOf("/")
	if err != nil {
		return warn("run doctor on the host, outside of containers", "%v", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return warn("", "%v", err)
	}
	return judgeRoot(m, dmAttribute(m.Source, "uuid"), string(cmdline))
}

// judgeRoot says what vouches for a root file system on that mount; uuid is that of its
// device-mapper device, "" for none.
func judgeRoot(m *mountinfo.Info, uuid, cmdline string) Finding {
	words := strings.Fields(cmdline)
	appraises := slices.ContainsFunc(words, func(w string) bool {
		policy, is := strings.CutPrefix(w, "ima_policy=")
		return is && slices.ContainsFunc(strings.Split(policy, "|"), func(p string) bool { return p == "appraise_tcb" || p == "secure_boot" }) || w == "ima_appraise_tcb"
	})
	lax := slices.ContainsFunc(words, func(w string) bool {
		return w == "ima_appraise=off" || w == "ima_appraise=fix" || w == "ima_appraise=log"
	})
	switch {
	case strings.HasPrefix(uuid, "CRYPT-VERITY-"):
		return ok("/ on dm-verity: see that a PCR of the vault's slots measures its root hash")
	case slices.Contains([]string{"rootfs", "tmpfs", "ramfs"}, m.FSType):
		return ok("/ in memory (%s): it is what the initrd held", m.FSType)
	case appraises && !lax:
		return ok("/ is appraised by IMA: see that its keys are measured")
	}
	return warn("dm-verity, or IMA appraisal: layervault help install, \"Against an evil maid\"",
		"nothing vouches for / (%s on %s; no dm-verity, no IMA appraisal on the command line): who writes to the switched-off disk changes what runs after the initrd, and that gets the key",
		m.FSType, m.Source)
}

// dmAttribute is what the kernel says of a device-mapper device: its name or uuid; "" for
// what is none.
func dmAttribute(source, attribute string) string {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return ""
	}
	value, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(real), "dm", attribute))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}
