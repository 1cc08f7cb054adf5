package tpm

import (
	"os"
	"path/filepath"
	"strings"

	"layervault/keys"
)

// checkHost looks at this machine's TPM. Without one only a vault that wants it is in
// trouble.
func checkHost(s keys.Settings, wanted bool) []keys.Finding {
	const other = "docker plugin set layervault key=versatile (a key file: protects nothing on a stolen disk)"
	verdict := keys.Warning
	if wanted {
		verdict = keys.Missing
	}
	path := s.Set[flagTPM]
	if path == "" {
		path = DefaultPath
	}
	found, err := Locate(path)
	if err != nil {
		return []keys.Finding{{Verdict: verdict, Detail: err.Error(), Fix: "switch the TPM on in the firmware, modprobe tpm_tis tpm_crb; or " + other}}
	}
	if found != path {
		return []keys.Finding{{Verdict: keys.Warning, Detail: path + " is not there, " + found + " is taken for it", Fix: "docker plugin set layervault tpm=" + found}}
	}
	out := []keys.Finding{{Verdict: keys.Good, Detail: path}}
	if path != DefaultPath {
		return out // an emulator, or one of several: sysfs speaks of the first
	}
	dir := "/sys/class/tpm/tpm0"
	major, err := os.ReadFile(filepath.Join(dir, "tpm_version_major"))
	if version := strings.TrimSpace(string(major)); err == nil && version != "2" {
		return []keys.Finding{{Verdict: verdict, Detail: "TPM version " + version + ", 2 is needed", Fix: other}}
	}
	if exists(dir) && !exists(filepath.Join(dir, "pcr-sha256")) {
		out = append(out, keys.Finding{Verdict: verdict, Detail: "no SHA-256 PCR bank", Fix: "switch the SHA-256 PCR bank on in the firmware"})
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
