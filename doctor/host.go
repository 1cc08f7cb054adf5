package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"layervault/keys"
	"layervault/keys/recovery"
)

// lowSpace is when doctor begins to warn: the next pull of a usual image would
// not fit.
const lowSpace = 2 << 30

// checkHardware looks at what key slots rest on, as their provider does.
func (h Host) checkHardware(ctx context.Context, k keys.Kind) []Finding {
	var slots []keys.Slot
	if ring, err := h.Keys.Load(ctx); err == nil { // else checkRecovery says it
		slots = ring.Slots()
	}
	return asFindings(k.Hardware.Check(h.Keys.Settings(), h.Keys.Provider == k.Name, slots))
}

// asFindings gives the findings of a key provider.
func asFindings(found []keys.Finding) []Finding {
	var out []Finding
	for _, f := range found {
		out = append(out, Finding{Verdict: f.Verdict, Detail: f.Detail, Fix: f.Fix})
	}
	return out
}

func checkPersist(dir string) []Finding {
	if !filepath.IsAbs(dir) {
		return []Finding{lack("give --persist an absolute path", "%q is no absolute path", dir)}
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return []Finding{lack("mkdir -m 700 "+dir+" (on the disk that is to hold the layers; or: docker plugin set layervault persist.source=DIR)", "%s is no directory", dir)}
	}
	space, err := ReadSpace(dir)
	if err != nil {
		return []Finding{warn("", "%v", err)}
	}
	switch space.Filesystem {
	case "ext4", "xfs", "btrfs", "f2fs":
	case "tmpfs", "overlay", "ramfs":
		return []Finding{warn("mount a disk at "+dir, "%s is on %s: the layers do not outlive a reboot, or lie within a container", dir, space.Filesystem)}
	default:
		return []Finding{warn("use ext4 or xfs", "%s is on %s, which was never tested", dir, space.Filesystem)}
	}
	if space.Free < lowSpace {
		return []Finding{warn("docker system prune, or a larger disk", "%s free of %s on %s", bytesOf(space.Free), bytesOf(space.Total), dir)}
	}
	return []Finding{ok("%s on %s, %s free", dir, space.Filesystem, bytesOf(space.Free))}
}

// checkSwap looks for swap that would write memory to disk in the clear.
func checkSwap() Finding {
	const fix = "swapoff -a, or encrypt it: a line \"swap DEVICE /dev/urandom swap\" in /etc/crypttab"
	data, err := os.ReadFile("/proc/swaps")
	if errors.Is(err, os.ErrNotExist) {
		return ok("the kernel has no swap")
	}
	if err != nil {
		return warn(fix, "%v", err)
	}
	var open []string
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for _, line := range lines[1:] { // the first is the head
		device, _, _ := strings.Cut(line, " ")
		device, _, _ = strings.Cut(device, "\t")
		if !isVolatile(device) && !isEncrypted(device) {
			open = append(open, device)
		}
	}
	if len(open) > 0 {
		return warn(fix, "swap in the clear on %s: keys are locked in memory, but what containers hold may be written there", strings.Join(open, ", "))
	}
	return ok("off or encrypted")
}

// isVolatile says whether a block device is memory.
func isVolatile(device string) bool {
	return strings.HasPrefix(filepath.Base(device), "zram")
}

// isEncrypted says whether a block device, or the one that holds a file, is
// dm-crypt.
func isEncrypted(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	uuid, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(real), "dm/uuid"))
	if err == nil {
		return strings.HasPrefix(string(uuid), "CRYPT-")
	}
	if strings.HasPrefix(real, "/dev/") {
		return false
	}
	m, err := mountOf(real)
	return err == nil && strings.HasPrefix(m.Source, "/dev/") && isEncrypted(m.Source)
}

// checkDockerTmp looks where dockerd unpacks pulls and loads: in the clear, below
// its data-root, unless DOCKER_TMPDIR says otherwise.
func checkDockerTmp() Finding {
	const fix = "make install sets it; by hand: systemctl edit docker, Environment=DOCKER_TMPDIR=/run/docker-tmp with ExecStartPre=/bin/mkdir -p -m 700 /run/docker-tmp"
	if _, err := dockerPID(); err != nil {
		return warn("systemctl start docker, then: layervault doctor", "dockerd does not run: %v", err)
	}
	dir := dockerdEnv("DOCKER_TMPDIR")
	if dir == "" {
		return warn(fix, "DOCKER_TMPDIR is not set: dockerd writes layers in the clear to its data-root while it pulls, loads and builds")
	}
	m, err := mountOf(dir)
	if err != nil {
		return warn(fix, "%v", err)
	}
	if m.FSType == "tmpfs" || strings.HasPrefix(m.Source, "/dev/") && isEncrypted(m.Source) {
		return ok("DOCKER_TMPDIR=%s on %s", dir, m.FSType)
	}
	return warn(fix, "DOCKER_TMPDIR=%s is neither in memory nor on an encrypted disk (%s on %s)", dir, m.FSType, m.Source)
}

// checkRecovery wants a slot that outlives the TPM.
func (h Host) checkRecovery(ctx context.Context) Finding {
	const fix = "layervault key enroll recovery, and keep what it prints away from this host"
	ring, err := h.Keys.Load(ctx)
	if errors.Is(err, keys.ErrNoRing) {
		return warn("docker plugin enable layervault, then: "+fix, "the vault is not made yet")
	}
	if err != nil {
		return warn(h.NextStep(err), "%v", err)
	}
	for _, slot := range ring.Slots() {
		if slot.Provider == recovery.Name {
			return ok("slot %s", slot.Title())
		}
	}
	return warn(fix, "no recovery slot: a firmware update or a dead TPM would lose every layer")
}
