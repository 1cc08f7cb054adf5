package advice

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/content"
	"layervault/convert"
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
	"layervault/migrate"
	"layervault/migrate/docker"
	"layervault/plugin"
	"layervault/plugin/socket"
	"layervault/snapshotter"
	"layervault/vault"
	"layervault/volume"
)

// The exit statuses. Scripts rely on them; a new kind of failure gets a new number.
const (
	StatusOK      = 0
	StatusFailed  = 1
	StatusUsage   = 2 // command line or setting
	StatusLocked  = 3 // no key slot opens
	StatusMissing = 4 // no such layer, slot or ring
	StatusInUse   = 5 // exists already, or another process has it
	StatusDamaged = 6 // on-disk data is broken; nothing was changed
	StatusNoSpace = 7
	StatusHost    = 8  // the host lacks something
	StatusDenied  = 9  // permissions, of the caller or of a key file
	StatusRefused = 10 // content has another digest than claimed
)

// statuses maps errors to exit statuses. The first row that matches counts: a
// locked vault whose reason is a missing TPM is locked.
var statuses = []struct {
	status int
	errs   []error
}{
	{StatusUsage, []error{keys.ErrNoProvider, keys.ErrUnknownProvider, keys.ErrAmbiguous, pemkey.ErrBadPEM, layer.ErrBadID, vault.ErrAmbiguous, secretio.ErrLength, secretio.ErrDiffer, crypt.ErrBadParams,
		volume.ErrBadName, volume.ErrBadOption, volume.ErrUnknownOption, volume.ErrNotHere, content.ErrBadDigest, content.ErrOffset, disk.ErrBadFile, disk.ErrUnsupported, crypt.ErrSmallSectors, docker.ErrAddress, migrate.ErrSameEngine}},
	{StatusRefused, []error{content.ErrDigest, content.ErrSize}},
	{StatusNoSpace, []error{area.ErrFloor, convert.ErrNoSpace, crypt.ErrNoSpace, migrate.ErrSpace, unix.ENOSPC, unix.EDQUOT}},
	{StatusLocked, []error{keys.ErrLocked, keys.ErrNeedsPerson, keys.ErrOlderRing, keys.ErrOtherRing, keys.ErrAnchorLost, keys.ErrWeakSlot, keys.ErrWrongKey, vault.ErrOpensNothing, luks2.ErrNoKey}},
	{StatusDamaged, []error{keys.ErrForgedRing, keys.ErrDamagedRing, keys.ErrNewerRing, keys.ErrRingLost, keys.ErrDamagedSlot, keys.ErrUnfinished, keys.ErrBadBackup, keys.ErrBadEscrow, vault.ErrOtherImages, layer.ErrDamaged, volume.ErrDamaged, volume.ErrAmbiguous, disk.ErrKeyMissing, disk.ErrImageMissing, disk.ErrBadKey, ext4.ErrNotExt4, disk.ErrFaulty, luks2.ErrDamaged, luks2.ErrNotLUKS2, luks2.ErrNotAuthentic, luks2.ErrForbidden, luks2.ErrTooCostly, crypt.ErrOldFormat, crypt.ErrCorrupt, crypt.ErrUnreadable, crypt.ErrNoTree, vault.ErrDamagedLayers, layer.ErrDiffers, vault.ErrUnfinished, content.ErrDamaged, content.ErrNotFile, engine.ErrTOML, engine.ErrJSON, plugin.ErrSnapshots, convert.ErrBadJournal, migrate.ErrState, migrate.ErrContent, migrate.ErrArchive}},
	{StatusDenied, []error{keys.ErrBadMode, content.ErrUser, disk.ErrOutside, fs.ErrPermission}},
	{StatusHost, []error{doctor.ErrHost, crypt.ErrNoVerity, crypt.ErrNoEROFS, crypt.ErrNoXattrs, keys.ErrAnchor, exec.ErrNotFound, disk.ErrTool, engine.ErrNone, engine.ErrNotConfigurable, docker.ErrNoEngine, docker.ErrAPI, migrate.ErrClearEngine, migrate.ErrClearFolder}},
	{StatusInUse, []error{keys.ErrRingExists, keys.ErrBusy, keys.ErrLastSlot, layer.ErrExists, layer.ErrInUse, layer.ErrBusy, layer.ErrNotFinal, crypt.ErrExists, crypt.ErrInUse, socket.ErrInUse, snapshotter.ErrRunning, snapshotter.ErrInUse, volume.ErrExists, volume.ErrInUse, volume.ErrBusyPath, area.ErrInTheWay, area.ErrInUse, area.ErrClosed, content.ErrBusy, vault.ErrNoDirectory, convert.ErrContainerd, convert.ErrMigrating, convert.ErrRunning, migrate.ErrBusy, migrate.ErrOtherImage, docker.ErrConflict}},
	{StatusMissing, []error{area.ErrAbsent, content.ErrNotFound, vault.ErrNoLayout, keys.ErrNotFound, keys.ErrNoRing, handover.ErrNobody, layer.ErrNotFound, crypt.ErrNotExist, volume.ErrNotFound, volume.ErrNoDisk, volume.ErrNoRevision, disk.ErrNotFound, docker.ErrNotFound, fs.ErrNotExist}},
	{StatusFailed, []error{context.Canceled}},
}

// classes are those of the key providers' errors, by status.
var classes = map[int]keys.Class{
	StatusUsage: keys.ClassUsage, StatusLocked: keys.ClassLocked, StatusDamaged: keys.ClassDamaged,
	StatusHost: keys.ClassHost, StatusMissing: keys.ClassMissing,
}

// Status is the exit status of an error.
func Status(err error) int {
	if err == nil {
		return StatusOK
	}
	if isUsage(err) {
		return StatusUsage
	}
	if reported, is := errors.AsType[*ReportedError](err); is {
		return reported.Status
	}
	// The reasons inside a LockedError match other rows (an unknown provider, a
	// file that is not there), so it is asked for first.
	if errors.Is(err, keys.ErrLocked) {
		return StatusLocked
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
	return StatusFailed
}
