package advice_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/advice"
	"layervault/area"
	"layervault/content"
	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/doctor"
	"layervault/driver"
	"layervault/keys"
	"layervault/keys/agent"
	"layervault/keys/recovery"
	"layervault/keys/tpm"
	"layervault/keys/trusted"
	"layervault/keys/versatile"
	"layervault/layer"
	"layervault/migrate"
	"layervault/migrate/docker"
	"layervault/plugin/socket"
	"layervault/snapshotter"
	"layervault/vault"
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
		{"usage", &advice.UsageError{Err: errors.New("x")}, 2, "--help"},
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
		{"no such source", trusted.ErrBadSource, 2, "docker plugin set layervault source=SOURCE"},
		{"kernel of another source", &trusted.KernelError{Source: "caam"}, 8, "modprobe trusted source=caam (boot with trusted.source=caam"},
		{"no storage key in the TPM", &trusted.KernelError{Source: "tpm", StorageKey: 0x81000001}, 8, "tpm2_evictcontrol -C o -c srk.ctx 0x81000001"},
		{"locked, kernel of another source", locked(&trusted.KernelError{Source: "caam"}), 3, "or: layervault key recover"},
		{"key file for all", &keys.NotPrivate{Path: "/k", Mode: 0o644}, 9, "chmod 600 /k"},
		{"key file of another", &keys.NotPrivate{Path: "/k", Mode: 0o600, Owner: 7}, 9, "chown 0 /k"},
		{"locked, key file for all", locked(&keys.NotPrivate{Path: "/k", Mode: 0o644}), 3, "chmod 600 /k"},
		{"lost key file", versatile.ErrNoKeyFile, 4, "restore the key file"},
		{"locked, lost key file", locked(versatile.ErrNoKeyFile), 3, "restore the key file"},
		{"bad key file", versatile.ErrBadKeyFile, 1, "--key-file"},
		{"slot of software", locked(&keys.WeakSlot{Setting: "key", Value: "versatile"}), 3, "set key=versatile (--key versatile)"},
		{"slot of few PCRs", locked(&keys.WeakSlot{Setting: "pcrs", Value: "7", PCRs: "4,7"}), 3, "layervault key reseal --pcrs 4,7 --recovery-key-file FILE; to accept such a slot, set pcrs=7"},
		{"ring elsewhere", &keys.RecordedRing{Ring: "ring 1"}, 6, "mount the disk of ring 1; or give that ring up for good: layervault key unpin"},
		{"storage key in lockout", locked(fmt.Errorf("%w: %w", tpm.ErrRootLockout, &tpm.Lockout{})), 3, "layervault key reseal"},
		{"lockout that can be cleared", locked(&tpm.Lockout{}), 3, "tpm2_dictionarylockout -c"},
		{"bank switched off", locked(&tpm.BankError{PCRs: "0-4,7", Err: tpm.ErrPCRBank}), 3, "layervault key reseal --recovery-key-file FILE --pcrs sha384:0-4,7"},
		{"bank of zeros", tpm.ErrPCRBank, 8, "--allow-zero-pcrs"},
		{"out of sessions", locked(&tpm.FullError{Sessions: true, Err: errors.New("x")}), 3, "tpm2_flushcontext -l -s"},
		{"out of objects", &tpm.FullError{Err: errors.New("x")}, 8, "tpm2_flushcontext -t"},
		{"owner password", tpm.ErrOwnerPassword, 8, "tpm2_evictcontrol -C o -P PASSWORD"},
		{"weak PIN", tpm.ErrWeakPIN, 2, "tpm2_changeauth -c lockout"},
		{"weak PIN, nothing counts", fmt.Errorf("%w: %w", tpm.ErrWeakPIN, tpm.ErrNoCounting), 2, "tpm2_dictionarylockout -s"},
		{"several TPMs", fmt.Errorf("%w: %w", tpm.ErrNoTPM, tpm.ErrManyTPMs), 8, "tpm=PATH"},
		{"command of a key service", locked(fmt.Errorf("%w: %w", agent.ErrAgent, agent.ErrCommand)), 3, "run the command of the key service by hand"},
		{"recovery slot anew", recovery.ErrNotAnew, 2, "layervault key enroll recovery"},
		{"other images", vault.ErrOtherImages, 6, "move the image away"},
		{"served", fmt.Errorf("%w: %w", layer.ErrBusy, vault.ErrServed), 5, "docker plugin disable layervault"},
		{"being rotated", fmt.Errorf("%w: %w", layer.ErrBusy, vault.ErrRotating), 5, "run the command again"},
		{"being upgraded", fmt.Errorf("%w: %w", layer.ErrBusy, vault.ErrUpgrading), 5, "layervault status"},
		{"plugin seals by itself", fmt.Errorf("%w; %w", layer.ErrBusy, vault.ErrSealing), 5, "upgrade=layers"},
		{"layer can change", layer.ErrNotFinal, 5, "no container has it mounted"},
		{"sealed anew, differs", layer.ErrDiffers, 6, "layervault layer verify"},
		{"not all sealed anew", fmt.Errorf("%w: x", vault.ErrNotSealed), 1, "run the command again"},
		{"not all sealed anew, no space", fmt.Errorf("%w: %w", vault.ErrNotSealed, crypt.ErrNoSpace), 7, "prune"},
		{"parent of a layer", layer.ErrInUse, 5, "remove the child first"},
		{"layer forged", fmt.Errorf("%w: %w", layer.ErrDamaged, layer.ErrForged), 6, "pull them again"},
		{"changed blocks", &crypt.CorruptError{Bad: []crypt.BadBlock{{Block: 1}}}, 6, "pull it again"},
		{"bad disk", fmt.Errorf("%w: %w", crypt.ErrUnreadable, unix.EIO), 6, "dmesg"},
		{"damaged layers", vault.ErrDamagedLayers, 6, "pull them again"},
		{"layer of format 1", fmt.Errorf("%w: %w", layer.ErrDamaged, layer.ErrOldFormat), 6, "pull it again"},
		{"another image in a layer", layer.ErrOtherImage, 1, "restore the right image"},
		{"transfer cut off", layer.ErrInterrupted, 1, "pull it again"},
		{"file system damaged", ext4.ErrNeedsRepair, 1, "e2fsck -f"},
		{"no dm-verity", crypt.ErrNoVerity, 8, "modprobe dm_verity; or boot a kernel with CONFIG_DM_VERITY"},
		{"no EROFS", fmt.Errorf("%w: %w", crypt.ErrNoEROFS, unix.ENODEV), 8, "modprobe erofs; or boot a kernel with CONFIG_EROFS_FS"},
		{"no attributes", crypt.ErrNoXattrs, 8, "boot a kernel with CONFIG_EROFS_FS_XATTR"},
		{"no tree", &crypt.UnverifiedError{Reason: crypt.ErrNoTree}, 6, "pull it again; to do without hash trees: docker plugin set layervault verity=prefer"},
		{"no tree for small sectors", &crypt.UnverifiedError{Reason: crypt.ErrSmallSectors}, 2, "sector=4096"},
		{"no tree by this kernel", &crypt.UnverifiedError{Reason: crypt.ErrNoVerity}, 8, "modprobe dm_verity; or boot a kernel with CONFIG_DM_VERITY; to do without"},
		{"no device-mapper", crypt.ErrNoMapper, 1, "modprobe -a dm_mod dm_crypt"},
		{"no loop devices", crypt.ErrNoLoop, 1, "modprobe loop"},
		{"files astray", driver.ErrAstray, 1, "run the failed command again"},
		{"files astray, not deleted", fmt.Errorf("%w; %w", driver.ErrAstray, driver.ErrNotDeleted), 1, "delete the files by hand"},
		{"request lost", socket.ErrEmpty, 1, "run the command again"},
		{"no socket", socket.ErrNotSocket, 1, "--socket PATH"},
		{"sparse tar", ext4.ErrSparse, 1, "without tar --sparse"},
		{"plugin stops", socket.ErrStopping, 1, "after the plugin's restart"},
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
		{"no layout", vault.ErrNoLayout, 4, "persist init"},
		{"area without an image", area.ErrAbsent, 4, "persist init"},
		{"closed area", area.ErrClosed, 5, "persist open"},
		{"place of an area taken", area.ErrInTheWay, 5, "move it away"},
		{"disk full up to the floor", area.ErrFloor, 7, "content gc"},
		{"wrong digest", content.ErrDigest, 10, ""},
		{"download cut off", content.ErrInterrupted, 1, "receive it again"},
		{"step of another user", &content.UserError{Step: "verify", Have: 1, Want: 2}, 9, "as root"},
		{"no such content", content.ErrNotFound, 4, "content list"},
		{"reported already", &advice.ReportedError{Status: 7}, 7, ""},
		{"no docker", fmt.Errorf("%w at x: %w", docker.ErrNoEngine, fs.ErrNotExist), 8, "start the engine"},
		{"no common API", fmt.Errorf("%w: %w", docker.ErrNoEngine, docker.ErrAPI), 8, ""},
		{"address of an engine", docker.ErrAddress, 2, ""},
		{"needed by a container", &docker.Error{Status: 409}, 5, ""},
		{"no image in docker", &docker.Error{Status: 404}, 4, ""},
		{"engine in the clear", migrate.ErrClearEngine, 8, "layervault containerd config --write --docker"},
		{"folder in the clear", migrate.ErrClearFolder, 8, "layervault volume create"},
		{"no room to migrate", migrate.ErrSpace, 7, "--no-space-check"},
		{"disk full in docker", fmt.Errorf("%w: %w", migrate.ErrUnfinished, &docker.Error{Message: "x: no space left on device"}), 7, "free some space"},
		{"image differs", fmt.Errorf("%w: %w", migrate.ErrUnfinished, &migrate.ContentError{}), 6, "run the command again"},
		{"another image's tag", fmt.Errorf("%w: %w", migrate.ErrUnfinished, migrate.ErrOtherImage), 5, "remove or rename that tag"},
		{"two migrations", migrate.ErrBusy, 5, "wait"},
		{"state of a migration", fmt.Errorf("%w: %w", migrate.ErrState, errors.New("version 9 of the format")), 6, "state.json"},
		{"not root", &fs.PathError{Op: "open", Path: "/p", Err: unix.EACCES}, 9, "run the command as root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.err
			if err != nil {
				err = fmt.Errorf("outer: %w", err)
			}
			if got := advice.Status(err); got != tc.want {
				t.Errorf("status %d, want %d", got, tc.want)
			}
			if hint := advice.Step(err); !strings.Contains(hint, tc.hint) {
				t.Errorf("hint is %q, want %q in it", hint, tc.hint)
			}
		})
	}
}

// Some reasons are shared by layers and volumes; the advice for volumes is not for layers.
func TestAdviceForVolumesOnly(t *testing.T) {
	for _, reason := range []error{layer.ErrForged, layer.ErrOldFormat} {
		if hint := advice.Step(fmt.Errorf("layer x: %w: %w", layer.ErrDamaged, reason)); strings.Contains(hint, "volume") {
			t.Errorf("%v: hint is %q", reason, hint)
		}
	}
}

// Each problem that the check of snapshots finds is explained, and what only a person can mend has
// a step.
func TestSnapshotProblems(t *testing.T) {
	for kind, step := range map[snapshotter.ProblemKind]string{
		snapshotter.Unlisted:     "",
		snapshotter.Lost:         "pull the image again",
		snapshotter.Unfinished:   "containerd commits or removes it",
		snapshotter.Contradicted: "pull the image again",
		snapshotter.Unknown:      "",
	} {
		if kind.Meaning() == "" {
			t.Errorf("%s is not explained", kind)
		}
		if got := advice.Snapshot(kind); !strings.Contains(got, step) || (got == "") != (step == "") {
			t.Errorf("%s: the step is %q", kind, got)
		}
	}
}
