package main

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/doctor"
	"layervault/engine"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/pemkey"
	"layervault/keys/secretio"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/plugin"
	"layervault/plugin/socket"
	"layervault/snapshotter"
	"layervault/vault"
	"layervault/volume"
)

// The exit statuses. Scripts rely on them; a new kind of failure gets a new number.
const (
	statusOK      = 0
	statusFailed  = 1
	statusUsage   = 2 // command line or setting
	statusLocked  = 3 // no key slot opens
	statusMissing = 4 // no such layer, slot or ring
	statusInUse   = 5 // exists already, or another process has it
	statusDamaged = 6 // on-disk data is broken; nothing was changed
	statusNoSpace = 7
	statusHost    = 8 // the host lacks something
	statusDenied  = 9 // permissions, of the caller or of a key file
)

// statuses maps errors to exit statuses. The first row that matches counts: a
// locked vault whose reason is a missing TPM is locked.
var statuses = []struct {
	status int
	errs   []error
}{
	{statusUsage, []error{keys.ErrNoProvider, keys.ErrUnknownProvider, keys.ErrAmbiguous, pemkey.ErrBadPEM, layer.ErrBadID, vault.ErrAmbiguous, secretio.ErrLength, secretio.ErrDiffer, crypt.ErrBadParams,
		volume.ErrBadName, volume.ErrBadOption, volume.ErrUnknownOption, volume.ErrNotHere, disk.ErrBadFile, disk.ErrUnsupported}},
	{statusNoSpace, []error{crypt.ErrNoSpace, unix.ENOSPC, unix.EDQUOT}},
	{statusLocked, []error{keys.ErrLocked, keys.ErrNeedsPerson, keys.ErrOlderRing, keys.ErrOtherRing, keys.ErrAnchorLost, keys.ErrWeakSlot, keys.ErrWrongKey, vault.ErrOpensNothing, luks2.ErrNoKey}},
	{statusDamaged, []error{keys.ErrForgedRing, keys.ErrDamagedRing, keys.ErrNewerRing, keys.ErrRingLost, keys.ErrDamagedSlot, keys.ErrUnfinished, keys.ErrBadBackup, keys.ErrBadEscrow, vault.ErrOtherImages, layer.ErrDamaged, volume.ErrDamaged, volume.ErrAmbiguous, disk.ErrKeyMissing, disk.ErrImageMissing, disk.ErrBadKey, ext4.ErrNotExt4, disk.ErrFaulty, luks2.ErrDamaged, luks2.ErrNotLUKS2, luks2.ErrNotAuthentic, luks2.ErrForbidden, luks2.ErrTooCostly, crypt.ErrOldFormat, vault.ErrUnfinished, engine.ErrTOML, engine.ErrJSON, plugin.ErrSnapshots}},
	{statusDenied, []error{keys.ErrBadMode, disk.ErrOutside, fs.ErrPermission}},
	{statusHost, []error{doctor.ErrHost, keys.ErrAnchor, exec.ErrNotFound, disk.ErrTool, engine.ErrNone, engine.ErrNotConfigurable}},
	{statusInUse, []error{keys.ErrRingExists, keys.ErrBusy, keys.ErrLastSlot, layer.ErrExists, layer.ErrInUse, layer.ErrBusy, crypt.ErrExists, crypt.ErrInUse, socket.ErrInUse, snapshotter.ErrRunning, snapshotter.ErrInUse, volume.ErrExists, volume.ErrInUse, volume.ErrBusyPath}},
	{statusMissing, []error{keys.ErrNotFound, keys.ErrNoRing, handover.ErrNobody, layer.ErrNotFound, crypt.ErrNotExist, volume.ErrNotFound, volume.ErrNoDisk, volume.ErrNoRevision, disk.ErrNotFound, fs.ErrNotExist}},
	{statusFailed, []error{context.Canceled}},
}

// classes are those of the key providers' errors, by status.
var classes = map[int]keys.Class{
	statusUsage: keys.ClassUsage, statusLocked: keys.ClassLocked, statusDamaged: keys.ClassDamaged,
	statusHost: keys.ClassHost, statusMissing: keys.ClassMissing,
}

// exitStatus is the status of an error.
func exitStatus(err error) int {
	if err == nil {
		return statusOK
	}
	if isUsage(err) {
		return statusUsage
	}
	// The reasons inside a LockedError match other rows (an unknown provider, a
	// file that is not there), so it is asked for first.
	if errors.Is(err, keys.ErrLocked) {
		return statusLocked
	}
	for _, row := range statuses {
		if class, ok := classes[row.status]; ok && unlock.HasFault(err, class) {
			return row.status
		}
		for _, target := range row.errs {
			if errors.Is(err, target) {
				return row.status
			}
		}
	}
	return statusFailed
}
