package trusted

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Both i.MX chips seal with a publicly known key until they are fused and boot in secure
// mode (HAB). Mainline kernels log that at each sealing (drivers/crypto/caam/blob_gen.c)
// or refuse DCP's zero key, unless the check is disabled (trusted.dcp_skip_zk_test,
// security/keys/trusted-keys/trusted_dcp.c).
const (
	testKeyWords = "insecure test key" // CAAM's; in NXP's kernels DCP's too
	zeroKeyWords = "neither in secure nor trusted mode"
	zeroKeyParam = "dcp_skip_zk_test"
)

func (linux) weakness(src Source) (string, error) { return Weakness(src) }

// Weakness returns the reason why the chip behind a source protects less than expected, or
// "". It reads the kernel's log and command line. The error is that they are not readable.
func Weakness(src Source) (string, error) {
	if src.kind != kindCAAM && src.kind != kindDCP && src.kind != kindTagged {
		return "", nil
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", fmt.Errorf("read the kernel command line: %w", err)
	}
	log, err := kernelLog()
	if why := weaknessFrom(src.kind, log, string(cmdline)); why != "" {
		return why, nil
	}
	return "", err
}

func weaknessFrom(kind, log, cmdline string) string {
	log = strings.ToLower(log)
	said := strings.Contains(log, testKeyWords) || kind == kindDCP && strings.Contains(log, zeroKeyWords)
	switch {
	case said && (kind == kindCAAM || kind == kindTagged):
		return "CAAM is not in secure mode (HAB) and seals with a test key shared by all such chips"
	case kind == kindDCP && (said || paramSet(cmdline, zeroKeyParam)):
		return "DCP is not in secure mode (HAB), or the mode is unknown: the key may be the known zero key"
	}
	return ""
}

// paramSet says whether a boolean parameter of the module trusted is on.
func paramSet(cmdline, name string) bool {
	for _, word := range strings.Fields(cmdline) {
		param, value, given := strings.Cut(word, "=")
		if param == "trusted."+name && (!given || value == "1" || strings.EqualFold(value, "y")) {
			return true
		}
	}
	return false
}

// kernelLog is the kernel's log, as much of it as it still has.
func kernelLog() (string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", fmt.Errorf("size of the kernel log: %w", err)
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return "", fmt.Errorf("read the kernel log: %w", err)
	}
	return string(buf[:n]), nil
}
