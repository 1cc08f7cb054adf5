package drivertest

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// envConfined is set in a process that has given up what the plugin does not have.
const envConfined = "LAYERVAULT_DRIVERTEST_CONFINED"

// pluginConfig is the managed plugin's configuration, as seen from the folder of package driver.
const pluginConfig = "../config.json"

// capabilityNumbers are the capabilities that the plugin's configuration may ask for.
var capabilityNumbers = map[string]int{
	"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
}

// dockerCapabilities are what docker gives to every plugin (moby, oci/caps/defaults.go).
var dockerCapabilities = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
}

// confine starts this program again with the capabilities that the plugin has, no more:
// overlayfs does less, without a word, for a mounter who lacks some.
func confine() error {
	if os.Getenv(envConfined) != "" || os.Getuid() != 0 {
		return nil
	}
	keep, err := pluginCapabilities()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The bounding set is the thread's; exec keeps that of the thread that calls it.
	runtime.LockOSThread()
	for n := 0; unix.Prctl(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0) == nil; n++ {
		if slices.Contains(keep, n) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", n, err)
		}
	}
	return unix.Exec(self, os.Args, append(os.Environ(), envConfined+"=1"))
}

func pluginCapabilities() ([]int, error) {
	data, err := os.ReadFile(pluginConfig)
	if err != nil {
		return nil, err
	}
	var config struct {
		Linux struct{ Capabilities []string }
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, err
	}
	keep := slices.Clone(dockerCapabilities)
	for _, name := range config.Linux.Capabilities {
		n, ok := capabilityNumbers[strings.ToUpper(name)]
		if !ok {
			return nil, fmt.Errorf("%s: capability %s is not known here", pluginConfig, name)
		}
		keep = append(keep, n)
	}
	return keep, nil
}
