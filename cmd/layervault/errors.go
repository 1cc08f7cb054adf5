package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

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

// advice is the command to type after some errors.
type advice struct {
	errs []error
	step string
}

// The advice by which nextStep goes, in this order; what the key providers say of their own
// errors comes between.
var (
	ofRings = []advice{
		{[]error{keys.ErrForgedRing}, "restore a backup of the key ring: layervault key restore FILE --force; find out who wrote to the disk"},
		{[]error{keys.ErrOlderRing, keys.ErrOtherRing, keys.ErrAnchorLost}, "if you put it there yourself, or changed the TPM: layervault key recover; else restore the newest backup: layervault key restore FILE --force"},
		{[]error{keys.ErrAnchor}, "unset the TPM owner's password for the moment, then: layervault key reseal; or go without: anchor=none"},
		{[]error{keys.ErrWeakSlot}, "the message says which setting admits the slot; or seal it as the settings ask: layervault key reseal"},
	}
	ofTiers = []advice{
		{[]error{keys.ErrLocked, keys.ErrNeedsPerson}, "layervault key recover"},
		{[]error{vault.ErrUnfinished}, "layervault vault upgrade --dry-run names everything that does not open"},
		{[]error{keys.ErrUnfinished}, "mend the images or remove their layers in docker, then: layervault key rotate (--force gives the images up)"},
		{[]error{vault.ErrOpensNothing}, "restore another backup; --force takes this one all the same"},
		{[]error{keys.ErrRingExists}, "--force replaces a sound key ring, and keeps it aside"},
		{[]error{keys.ErrNoProvider}, "docker plugin set layervault key=tpm (or key=versatile where there is no TPM); for serve: --key"},
	}
	ofTheRest = []advice{
		{[]error{handover.ErrNobody}, "layervault key unlock --wait, and start docker meanwhile"},
		{[]error{keys.ErrUnknownProvider}, "layervault serve --help lists the key providers"},
		{[]error{keys.ErrDamagedRing, keys.ErrRingLost}, "restore keyring.json from a backup: layervault key restore FILE; nothing was changed"},
		{[]error{keys.ErrNewerRing}, "use the newer layervault that wrote it"},
		{[]error{keys.ErrBadMode}, "chmod 600 the key file, and make a new key if others may have read it"},
		{[]error{keys.ErrLastSlot}, "layervault key enroll another slot first"},
		{[]error{keys.ErrNoRing}, "the vault is made when the plugin first starts: docker plugin enable layervault"},
		{[]error{keys.ErrNotFound}, "layervault key list"},
		{[]error{volume.ErrNotFound}, "layervault volume list"},
		{[]error{volume.ErrNoRevision}, "layervault revision set REVISION"},
		{[]error{volume.ErrNoDisk}, "layervault disk list; the plugin's setting is: docker plugin set layervault disks=/persist/device.json"},
		{[]error{volume.ErrInUse}, "stop what uses it, then try again; layervault volume show says more"},
		{[]error{volume.ErrUnknownOption, volume.ErrBadOption}, "layervault help volumes"},
		{[]error{volume.ErrDamaged, volume.ErrAmbiguous}, "layervault volume list; nothing was changed"},
		{[]error{luks2.ErrDamaged, luks2.ErrNotLUKS2}, "cryptsetup luksDump the image; if both headers are gone, remove the image in docker and pull it again"},
		{[]error{luks2.ErrNoKey}, "layervault status; an image opens only with the vault it was made in and under its own name"},
		{[]error{luks2.ErrNotAuthentic, luks2.ErrTooCostly}, "if you changed the header yourself, with cryptsetup: layervault image adopt; if not, restore the image from a backup"},
		{[]error{luks2.ErrForbidden}, "somebody changed the header: restore the image from a backup, or remove the layer in docker and pull it again"},
		{[]error{crypt.ErrOldFormat}, "layervault vault upgrade; for one image that was put back: layervault image adopt"},
		{[]error{layer.ErrNotFound, crypt.ErrNotExist}, "layervault image list"},
		{[]error{layer.ErrBusy, socket.ErrInUse}, "docker plugin ls; systemctl status layervault"},
		{[]error{volume.ErrUnclean}, "layervault volume key VOLUME | cryptsetup open --readonly --key-file - IMAGE rescue, then: mount -o ro,noload /dev/mapper/rescue PATH"},
		{[]error{unix.EROFS}, "the disk is mounted read-only: verbs that read work (volume key, image key, volume mount), with --recovery-key-file where no slot opens"},
		{[]error{crypt.ErrNoSpace, unix.ENOSPC, unix.EDQUOT}, "layervault status shows the space; docker system prune frees some"},
		{[]error{doctor.ErrHost}, "see the commands above, then: layervault doctor"},
	}
)

// nextStep is the command to type after an error, or "". It is the only place
// that knows: errors say what is wrong, this says what to do.
func nextStep(err error) string {
	switch {
	case err == nil:
		return ""
	case isUsage(err):
		return "layervault --help"
	}
	for i, list := range [][]advice{ofRings, ofTiers, ofTheRest} {
		if i > 0 { // first where a provider's own step helps more than that of every locked tier
			if step := unlock.Step(err, i == 1); step != "" {
				return step
			}
		}
		for _, a := range list {
			if slices.ContainsFunc(a.errs, func(target error) bool { return errors.Is(err, target) }) {
				return a.step
			}
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("run it as root (you are uid %d)", unix.Geteuid())
	}
	return ""
}
