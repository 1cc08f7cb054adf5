package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/doctor"
	"layervault/keys"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/layer"
	"layervault/plugin/socket"
	"layervault/volume"
)

// TestExitStatus fixes the statuses: scripts rely on them.
func TestExitStatus(t *testing.T) {
	locked := func(reason error) error {
		return fmt.Errorf("unlock the vault: %w", &keys.LockedError{Ring: "/r", Slots: []*keys.SlotError{{Err: reason}}})
	}
	damaged := func(reason error) error { return fmt.Errorf("volume v: %w: %w", volume.ErrDamaged, reason) }
	for _, tc := range []struct {
		name string
		err  error
		want int
		hint string // part of it
	}{
		{"nothing", nil, 0, ""},
		{"anything", errors.New("x"), 1, ""},
		{"usage", usagef("x"), 2, "--help"},
		{"no provider", keys.ErrNoProvider, 2, "key=tpm"},
		{"bad id", layer.ErrBadID, 2, ""},
		{"locked", locked(keys.ErrNeedsPerson), 3, "layervault key recover"},
		{"locked, no TPM", locked(tpm.ErrNoTPM), 3, "layervault key recover"},
		{"locked, no key file", locked(fs.ErrNotExist), 3, "layervault key recover"},
		{"locked, PCRs changed", locked(&keys.PCRChanges{Changed: []*keys.PCRMismatch{{Index: 7}}}), 3, "changed the firmware"},
		{"lockout", locked(tpm.ErrLockout), 3, "wait"},
		{"header changed", fmt.Errorf("x: %w", &luks2.HeaderError{Fields: []luks2.Change{{Field: "uuid"}}, Reason: luks2.ErrNotAuthentic}), 6, "image adopt"},
		{"header forbidden", fmt.Errorf("x: %w", &luks2.HeaderError{Fields: []luks2.Change{{Field: "uuid"}}, Reason: luks2.ErrForbidden}), 6, "backup"},
		{"old format", crypt.CheckFormat(1, 2), 6, "vault upgrade"},
		{"open elsewhere", &crypt.HolderError{Path: "/a", Device: "stock"}, 5, ""},
		{"no layer", layer.ErrNotFound, 4, "image list"},
		{"no slot", keys.ErrNotFound, 4, "key list"},
		{"no ring", keys.ErrNoRing, 4, "docker plugin enable"},
		{"two plugins", socket.ErrInUse, 5, "docker plugin ls"},
		{"last slot", keys.ErrLastSlot, 5, "key enroll"},
		{"damaged ring", keys.ErrDamagedRing, 6, "backup"},
		{"lost ring", keys.ErrRingLost, 6, "backup"},
		{"damaged header", luks2.ErrDamaged, 6, "luksDump"},
		{"no space", crypt.ErrNoSpace, 7, "prune"},
		{"no space, from the kernel", &fs.PathError{Op: "write", Path: "/p", Err: unix.ENOSPC}, 7, "prune"},
		{"host", doctor.ErrHost, 8, "doctor"},
		{"no TPM", tpm.ErrNoTPM, 8, "key=versatile"},
		{"no trusted keys", trusted.ErrNoTrusted, 8, "doctor"},
		{"another chip", trusted.ErrOtherChip, 8, "key recover"},
		{"locked, another chip", locked(trusted.ErrOtherChip), 3, "key recover"},
		{"no such source", trusted.ErrBadSource, 2, "key enroll --help"},
		{"key file for all", keys.ErrBadMode, 9, "chmod 600"},
		{"volume exists", volume.ErrExists, 5, "layervault volume purge"},
		{"volume not listed", damaged(volume.ErrUnlisted), 6, "layervault image adopt"},
		{"volume of format 1", damaged(volume.ErrOldFormat), 6, "layervault image adopt"},
		{"volume missing", damaged(volume.ErrMissing), 6, "layervault volume remove"},
		{"volume forged", damaged(volume.ErrForged), 6, "layervault volume remove"},
		{"list of volumes damaged", fmt.Errorf("%w: %w", volume.ErrList, volume.ErrForged), 6, "remove the list"},
		{"revisions damaged", fmt.Errorf("%w: %w", volume.ErrRevisions, volume.ErrForged), 6, "layervault revision set"},
		{"two volumes of one name", volume.ErrAmbiguous, 6, "layervault volume remove"},
		{"immutable file", volume.ErrImmutable, 1, "chattr"},
		{"disk without its image", disk.ErrImageMissing, 6, ".init_done"},
		{"not root", &fs.PathError{Op: "open", Path: "/p", Err: unix.EACCES}, 9, "run the command as root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.err
			if err != nil {
				err = fmt.Errorf("outer: %w", err)
			}
			if got := exitStatus(err); got != tc.want {
				t.Errorf("status %d, want %d", got, tc.want)
			}
			if hint := nextStep(err); !strings.Contains(hint, tc.hint) {
				t.Errorf("hint is %q, want %q in it", hint, tc.hint)
			}
		})
	}
}

// Some reasons are shared by layers and volumes; the advice for volumes is not for layers.
func TestAdviceForVolumesOnly(t *testing.T) {
	for _, reason := range []error{layer.ErrForged, layer.ErrOldFormat} {
		if hint := nextStep(fmt.Errorf("layer x: %w: %w", layer.ErrDamaged, reason)); strings.Contains(hint, "volume") {
			t.Errorf("%v: hint is %q", reason, hint)
		}
	}
}
