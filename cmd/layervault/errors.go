package main

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/doctor"
	"layervault/keys"
	"layervault/keys/handover"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/plugin/socket"
	"layervault/vault"
	"layervault/volume"
)

// nextStep is the command to type after an error, or "". It is the only place
// that knows: errors say what is wrong, this says what to do.
func nextStep(err error) string {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case err == nil:
		return ""
	case isUsage(err):
		return "layervault --help"
	case is(keys.ErrForgedRing):
		return "restore a backup of the key ring: layervault key restore FILE --force; find out who wrote to the disk"
	case is(keys.ErrOlderRing), is(keys.ErrOtherRing), is(keys.ErrAnchorLost):
		return "if you put it there yourself, or changed the TPM: layervault key recover; else restore the newest backup: layervault key restore FILE --force"
	case is(keys.ErrAnchor):
		return "unset the TPM owner's password for the moment, then: layervault key reseal; or go without: anchor=none"
	case is(keys.ErrWeakSlot):
		return "the message says which setting admits the slot; or seal it as the settings ask: layervault key reseal"
	case unlock.Step(err, true) != "":
		return unlock.Step(err, true)
	case is(keys.ErrLocked), is(keys.ErrNeedsPerson):
		return "layervault key recover"
	case is(vault.ErrUnfinished):
		return "layervault vault upgrade --dry-run names everything that does not open"
	case is(keys.ErrUnfinished):
		return "mend the images or remove their layers in docker, then: layervault key rotate (--force gives the images up)"
	case is(vault.ErrOpensNothing):
		return "restore another backup; --force takes this one all the same"
	case is(keys.ErrRingExists):
		return "--force replaces a sound key ring, and keeps it aside"
	case is(keys.ErrNoProvider):
		return "docker plugin set layervault key=tpm (or key=versatile where there is no TPM); for serve: --key"
	case unlock.Step(err, false) != "":
		return unlock.Step(err, false)
	case is(handover.ErrNobody):
		return "layervault key unlock --wait, and start docker meanwhile"
	case is(keys.ErrUnknownProvider):
		return "layervault serve --help lists the key providers"
	case is(keys.ErrDamagedRing), is(keys.ErrRingLost):
		return "restore keyring.json from a backup: layervault key restore FILE; nothing was changed"
	case is(keys.ErrNewerRing):
		return "use the newer layervault that wrote it"
	case is(keys.ErrBadMode):
		return "chmod 600 the key file, and make a new key if others may have read it"
	case is(keys.ErrLastSlot):
		return "layervault key enroll another slot first"
	case is(keys.ErrNoRing):
		return "the vault is made when the plugin first starts: docker plugin enable layervault"
	case is(keys.ErrNotFound):
		return "layervault key list"
	case is(volume.ErrNotFound):
		return "layervault volume list"
	case is(volume.ErrNoRevision):
		return "layervault revision set REVISION"
	case is(volume.ErrNoDisk):
		return "layervault disk list; the plugin's setting is: docker plugin set layervault disks=/persist/device.json"
	case is(volume.ErrInUse):
		return "stop what uses it, then try again; layervault volume show says more"
	case is(volume.ErrUnknownOption), is(volume.ErrBadOption):
		return "layervault help volumes"
	case is(volume.ErrDamaged), is(volume.ErrAmbiguous):
		return "layervault volume list; nothing was changed"
	case is(luks2.ErrDamaged), is(luks2.ErrNotLUKS2):
		return "cryptsetup luksDump the image; if both headers are gone, remove the image in docker and pull it again"
	case is(luks2.ErrNoKey):
		return "layervault status; an image opens only with the vault it was made in and under its own name"
	case is(luks2.ErrNotAuthentic), is(luks2.ErrTooCostly):
		return "if you changed the header yourself, with cryptsetup: layervault image adopt; if not, restore the image from a backup"
	case is(luks2.ErrForbidden):
		return "somebody changed the header: restore the image from a backup, or remove the layer in docker and pull it again"
	case is(crypt.ErrOldFormat):
		return "layervault vault upgrade; for one image that was put back: layervault image adopt"
	case is(layer.ErrNotFound), is(crypt.ErrNotExist):
		return "layervault image list"
	case is(layer.ErrBusy), is(socket.ErrInUse):
		return "docker plugin ls; systemctl status layervault"
	case is(volume.ErrUnclean):
		return "layervault volume key VOLUME | cryptsetup open --readonly --key-file - IMAGE rescue, then: mount -o ro,noload /dev/mapper/rescue PATH"
	case is(unix.EROFS):
		return "the disk is mounted read-only: verbs that read work (volume key, image key, volume mount), with --recovery-key-file where no slot opens"
	case is(crypt.ErrNoSpace), is(unix.ENOSPC), is(unix.EDQUOT):
		return "layervault status shows the space; docker system prune frees some"
	case is(doctor.ErrHost):
		return "see the commands above, then: layervault doctor"
	case is(fs.ErrPermission):
		return fmt.Sprintf("run it as root (you are uid %d)", unix.Geteuid())
	}
	return ""
}
