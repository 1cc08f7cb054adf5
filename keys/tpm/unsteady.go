package tpm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What each PCR holds, and why it is a default or not (TCG PC Client Platform Firmware
// Profile, section 3.3.4; https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry):
//
//	0-3   firmware, its settings, option ROMs and theirs        yes
//	4     boot loader; with Secure Boot or a UKI the kernel too yes: a kernel update changes it
//	5     partition table, boot variables                       no: changes on its own
//	6     events of the board's maker                           yes, as EVE has it
//	7     Secure Boot: its state and keys                       yes
//	8, 9  GRUB's commands, kernel and initrd                    yes: a kernel update changes them
//	10    IMA: each file that is run                            no: grows all the time
//	11    UKI sections, then each phase of systemd's boot       no: another value early than late
//	12    command line and credentials of a UKI                 yes
//	13    system extensions in the initrd                       yes
//	14    shim's own keys (MOK)                                 yes
//	15    machine id, root file system, by systemd              no: another value early than late
//
// PCR 4 covers the kernel as PCR 11 does: the firmware measures a UKI as one file. Without
// 4, 8 and 9 any other system accepted by the firmware's keys, such as a live medium, would
// open the vault, so a kernel update needs a signed policy or the recovery key. To use 10
// or 11 (as EVE does), set them explicitly; Unsteady then warns.

// Unsteady lists the PCRs of sel whose values differ between early and late boot on this
// machine, with reasons: a key sealed now, late in the boot, would not open early in the
// next boot.
func Unsteady(sel Selection) []string { return unsteadyIn("/", sel) }

func unsteadyIn(root string, sel Selection) []string {
	var out []string
	if slices.Contains(sel.PCRs, 10) {
		text, err := os.ReadFile(filepath.Join(root, "sys/kernel/security/ima/runtime_measurements_count"))
		// The first measurement is of the boot and comes before all others.
		if n, numErr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && numErr == nil && n > 1 {
			out = append(out, fmt.Sprintf("PCR 10: IMA measures files on this machine (%d since boot)", n))
		}
	}
	phases, _ := filepath.Glob(filepath.Join(root, "sys/firmware/efi/efivars/StubPcrKernelImage-*")) // the pattern is right
	for _, n := range []int{11, 15} {
		if slices.Contains(sel.PCRs, n) && len(phases) > 0 {
			out = append(out, fmt.Sprintf("PCR %d: systemd extends this PCR while a measured kernel boots (systemd-pcrphase, systemd-pcrmachine)", n))
		}
	}
	return out
}
