package tpm

import (
	"os"
	"path/filepath"
	"strings"

	"layervault/keys"
)

// checkHost examines this machine's TPM. A missing TPM is a fault only if the vault
// needs one.
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
		return []keys.Finding{{Verdict: verdict, Detail: err.Error(), Fix: "enable the TPM in the firmware, modprobe -a tpm_tis tpm_crb; or " + other}}
	}
	if found != path {
		return []keys.Finding{{Verdict: keys.Warning, Detail: path + " does not exist, " + found + " is used instead", Fix: "docker plugin set layervault tpm=" + found}}
	}
	out := []keys.Finding{{Verdict: keys.Good, Detail: path}}
	if path != DefaultPath {
		return out // an emulator, or one of several: sysfs speaks of the first
	}
	dir := "/sys/class/tpm/tpm0"
	major, err := os.ReadFile(filepath.Join(dir, "tpm_version_major"))
	if version := strings.TrimSpace(string(major)); err == nil && version != "2" {
		return []keys.Finding{{Verdict: verdict, Detail: "TPM version " + version + ", need 2", Fix: other}}
	}
	if exists(dir) && !exists(filepath.Join(dir, "pcr-sha256")) {
		out = append(out, keys.Finding{Verdict: verdict, Detail: "no SHA-256 PCR bank", Fix: "enable the SHA-256 PCR bank in the firmware"})
	}
	return out
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
