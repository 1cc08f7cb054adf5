package advice

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/content"
	"layervault/convert"
	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/crypt/luks2"
	"layervault/disk"
	"layervault/doctor"
	"layervault/driver"
	"layervault/engine"
	"layervault/keys"
	"layervault/keys/handover"
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

// rule is the command to type after some errors.
type rule struct {
	errs []error
	step string
	in   error              // only for errors that match this too; nil for all
	of   func(error) string // instead of errs and step, for an error that carries what the command needs
}

// next is the command after err, "" if err is another.
func (r rule) next(err error) string {
	switch {
	case r.of != nil:
		return r.of(err)
	case (r.in == nil || errors.Is(err, r.in)) && slices.ContainsFunc(r.errs, func(target error) bool { return errors.Is(err, target) }):
		return r.step
	}
	return ""
}

// of is the rule for errors of the type E.
func of[E error](step func(E) string) rule {
	return rule{of: func(err error) string {
		if e, ok := errors.AsType[E](err); ok {
			return step(e)
		}
		return ""
	}}
}

// acceptSlot makes a weak slot stronger, or accepts it.
func acceptSlot(e *keys.WeakSlot) string {
	accept := fmt.Sprintf("to accept such a slot, set %s=%s (--%[1]s %[2]s)", e.Setting, e.Value)
	if e.PCRs == "" {
		return accept
	}
	return fmt.Sprintf("layervault key reseal --pcrs %s --recovery-key-file FILE; %s", e.PCRs, accept)
}

// makePrivate makes a key file private.
func makePrivate(e *keys.NotPrivate) string {
	if e.Owner != e.Want {
		return fmt.Sprintf("chown %d %s; make a new key if user %d is not trusted", e.Want, e.Path, e.Owner)
	}
	return fmt.Sprintf("chmod 600 %s; make a new key if others may have read it", e.Path)
}

// verifyLayers makes an image be one that verity=require accepts, or accepts it.
func verifyLayers(e *crypt.UnverifiedError) string {
	const accept = "; to do without hash trees: docker plugin set layervault verity=prefer"
	switch {
	case errors.Is(e, crypt.ErrNoTree):
		return "remove the layer in docker and pull it again" + accept
	case errors.Is(e, crypt.ErrSmallSectors):
		return "docker plugin set layervault sector=4096" + accept
	}
	if no, is := errors.AsType[crypt.KernelError](e.Reason); is {
		return bootOther(no) + accept
	}
	return ""
}

// bootOther gives the kernel what it lacks.
func bootOther(e crypt.KernelError) string {
	if e.Module == "" {
		return "boot a kernel with " + e.Option
	}
	return "modprobe " + e.Module + "; or boot a kernel with " + e.Option
}

// adoptVolume is the advice for a volume that the tier's key does not authenticate.
const adoptVolume = "if the volume is yours: layervault image adopt --volume ID; else remove it by its ID: layervault volume remove ID"

// The rules by which Step goes, in this order; what the key providers say of their own
// errors comes between.
var (
	ofRings = []rule{
		{errs: []error{keys.ErrForgedRing}, step: "restore a backup of the key ring: layervault key restore FILE --force; find out who wrote to the disk"},
		{errs: []error{keys.ErrOlderRing, keys.ErrOtherRing, keys.ErrAnchorLost}, step: "if you restored an older ring or changed the TPM: layervault key recover; else restore the newest backup: layervault key restore FILE --force"},
		{errs: []error{keys.ErrAnchor}, step: "clear the TPM owner password (tpm2_changeauth -c owner -p PASSWORD), then: layervault key reseal; or use anchor=none"},
		of(acceptSlot),
	}
	ofTiers = []rule{
		of(makePrivate), // before what is said of every locked tier
		{errs: []error{keys.ErrLocked, keys.ErrNeedsPerson}, step: "layervault key recover"},
		{errs: []error{vault.ErrUnfinished}, step: "layervault vault upgrade --dry-run names what does not open; remove or adopt it (layervault image adopt), or: layervault vault upgrade --force"},
		{errs: []error{keys.ErrUnfinished}, step: "repair the images or remove their layers in docker, then: layervault key rotate (--force gives the images up)"},
		{errs: []error{vault.ErrOpensNothing}, step: "restore another backup; --force restores this one anyway"},
		{errs: []error{keys.ErrRingExists}, step: "--force replaces an intact key ring, and keeps a copy"},
		{errs: []error{keys.ErrNoProvider}, step: "docker plugin set layervault key=tpm (or key=versatile where there is no TPM); for serve: --key"},
	}
	ofTheRest = []rule{
		{errs: []error{convert.ErrNoSpace}, step: "layervault persist upgrade --commit frees each source once it is copied; -n shows the space"},
		{errs: []error{convert.ErrUnfinished}, step: "layervault persist upgrade -n names the reasons; then run it again"},
		{errs: []error{handover.ErrNobody}, step: "layervault key unlock --wait, then start docker"},
		{errs: []error{keys.ErrUnknownProvider}, step: "layervault serve --help lists the key providers"},
		of(func(e *keys.RecordedRing) string {
			return "mount the disk of " + e.Ring + "; or give that ring up for good: layervault key unpin"
		}),
		{errs: []error{keys.ErrRingLost}, step: "restore keyring.json from a backup: layervault key restore FILE; or move the images away, to start with a new ring"},
		{errs: []error{keys.ErrDamagedRing}, step: "restore keyring.json from a backup: layervault key restore FILE; nothing was changed"},
		{errs: []error{keys.ErrNewerRing}, step: "use the newer layervault that wrote the key ring"},
		{errs: []error{keys.ErrLastSlot}, step: "enroll another slot first: layervault key enroll"},
		{errs: []error{keys.ErrNoRing}, step: "the vault is made when the plugin first starts: docker plugin enable layervault"},
		{errs: []error{keys.ErrNotFound}, step: "layervault key list"},
		{errs: []error{vault.ErrNoLayout, area.ErrAbsent}, step: "layervault persist init"},
		{errs: []error{area.ErrClosed}, step: "layervault persist open"},
		{errs: []error{area.ErrInTheWay}, step: "layervault persist status says what lies there; move it away, or unmount it"},
		{errs: []error{area.ErrInUse}, step: "stop the user of the area, then try again"},
		{errs: []error{area.ErrFloor}, step: "remove content: layervault content gc; layervault persist du shows what takes the room"},
		{errs: []error{content.ErrNotFound}, step: "layervault content list"},
		{errs: []error{content.ErrInterrupted, content.ErrOffset}, step: "receive it again; layervault content list shows how much has come"},
		{errs: []error{content.ErrUser}, step: "run the command as root"},
		{errs: []error{volume.ErrNotFound}, step: "layervault volume list"},
		{errs: []error{volume.ErrNoRevision}, step: "layervault revision set REVISION"},
		{errs: []error{volume.ErrNoDisk}, step: "layervault disk list; the plugin's setting is: docker plugin set layervault disks=/persist/device.json"},
		{errs: []error{volume.ErrInUse}, step: "stop the user of the volume, then try again; layervault volume show VOLUME shows the mounts"},
		{errs: []error{volume.ErrUnknownOption, volume.ErrBadOption}, step: "layervault help volumes"},
		{errs: []error{volume.ErrExists}, step: "layervault volume grow makes a volume larger; for other options, layervault volume purge makes a new, empty generation"},
		{errs: []error{volume.ErrImmutable}, step: "clear the flags in the folder that the message names: chattr -R -ia FOLDER"},
		{errs: []error{volume.ErrList}, step: "restore the list from a backup; or remove the list and adopt each volume: layervault image adopt --volume ID"},
		{errs: []error{volume.ErrRevisions}, step: "layervault revision set REVISION"},
		{errs: []error{volume.ErrMissing}, step: "restore the file that the message names from a backup; or give the volume up: layervault volume remove VOLUME"},
		{errs: []error{volume.ErrUnlisted}, step: adoptVolume},
		{errs: []error{volume.ErrOldFormat}, step: adoptVolume, in: volume.ErrDamaged},
		{errs: []error{volume.ErrForged}, step: "restore the volume from a backup; or remove it by its ID: layervault volume remove ID", in: volume.ErrDamaged},
		{errs: []error{volume.ErrAmbiguous}, step: "remove one of the two by its ID: layervault volume remove ID"},
		{errs: []error{disk.ErrImageMissing}, step: "restore the image from a backup; or remove the .init_done file that the message names, to begin with an empty disk"},
		{errs: []error{volume.ErrDamaged}, step: "layervault volume list; nothing was changed"},
		{errs: []error{layer.ErrForged}, step: "remove the layers that the message names, in docker, and pull them again; or restore their records from a backup", in: layer.ErrDamaged},
		{errs: []error{layer.ErrOldFormat}, step: "remove the layer in docker and pull it again", in: layer.ErrDamaged},
		{errs: []error{layer.ErrOtherImage}, step: "restore the right image from a backup; or remove the layer in docker and pull it again"},
		{errs: []error{crypt.ErrCorrupt}, step: "remove the image in docker and pull it again; find out who wrote to the disk"},
		{errs: []error{crypt.ErrUnreadable}, step: "dmesg shows what the disk says; replace it, or remove the image in docker and pull it again"},
		{errs: []error{vault.ErrDamagedLayers}, step: "remove the images of the damaged layers in docker and pull them again"},
		{errs: []error{layer.ErrInterrupted}, step: "remove the layer in docker and pull it again"},
		{errs: []error{luks2.ErrDamaged, luks2.ErrNotLUKS2}, step: "cryptsetup luksDump the image; if both headers are gone, restore the image from a backup, or remove it in docker and pull it again"},
		{errs: []error{luks2.ErrNoKey}, step: "layervault status; an image opens only with the vault it was made in and under its own name"},
		{errs: []error{luks2.ErrNotAuthentic, luks2.ErrTooCostly}, step: "if you changed the header yourself, with cryptsetup: layervault image adopt; if not, restore the image from a backup"},
		{errs: []error{luks2.ErrForbidden}, step: "header was changed: restore the image from a backup, or remove the layer in docker and pull it again"},
		{errs: []error{crypt.ErrOldFormat}, step: "layervault vault upgrade; for one image from a backup: layervault image adopt"},
		{errs: []error{layer.ErrNotFound, crypt.ErrNotExist}, step: "layervault image list"},
		{errs: []error{layer.ErrInUse}, step: "remove the child first, in docker"},
		{errs: []error{vault.ErrSealing}, step: "docker plugin set layervault upgrade=layers; or stop the plugin first: docker plugin disable layervault"},
		{errs: []error{layer.ErrDiffers}, step: "the layer stays as it is: layervault layer verify LAYER reads it; dmesg shows faults of disk and memory"},
		{errs: []error{layer.ErrNotFinal}, step: "a layer is sealed once another stands on it and no container has it mounted"},
		{errs: []error{vault.ErrUpgrading}, step: "layervault status shows how far the upgrade is; if the plugin was set to upgrade=off, stop it first: docker plugin disable layervault"},
		{errs: []error{vault.ErrServed}, step: "stop the plugin first: docker plugin disable layervault (or systemctl stop layervault)"},
		{errs: []error{vault.ErrRotating}, step: "wait until the rotation ends, then run the command again"},
		{errs: []error{vault.ErrOtherImages}, step: "move the image away, or use the version of layervault that made it"},
		{errs: []error{layer.ErrBusy, socket.ErrInUse}, step: "docker plugin ls; systemctl status layervault"},
		{errs: []error{socket.ErrNotSocket}, step: "choose another path: --socket PATH"},
		{errs: []error{ext4.ErrSparse}, step: "build the image without tar --sparse"},
		{errs: []error{socket.ErrEmpty}, step: "run the command again"},
		{errs: []error{socket.ErrStopping}, step: "run the command again after the plugin's restart"},
		{errs: []error{driver.ErrNotDeleted}, step: "delete the files by hand, then run the failed command again"},
		{errs: []error{driver.ErrAstray}, step: "run the failed command again"},
		of(verifyLayers),
		of(bootOther),
		{errs: []error{crypt.ErrNoMapper}, step: "modprobe -a dm_mod dm_crypt"},
		{errs: []error{crypt.ErrNoLoop}, step: "modprobe loop"},
		{errs: []error{ext4.ErrNeedsRepair}, step: "layervault volume key VOLUME (or image key IMAGE) | cryptsetup open --key-file - IMAGE repair, then: e2fsck -f /dev/mapper/repair"},
		{errs: []error{volume.ErrUnclean}, step: "layervault volume key VOLUME | cryptsetup open --readonly --key-file - IMAGE rescue, then: mount -o ro,noload /dev/mapper/rescue PATH"},
		{errs: []error{unix.EROFS}, step: "the disk is mounted read-only: verbs that read work (volume key, image key, volume mount), with --recovery-key-file where no slot opens"},
		{errs: []error{docker.ErrNoEngine}, step: "start the engine, and name its socket: --from or --to unix:///PATH"},
		{errs: []error{docker.ErrAPI}, step: "Docker 20.10 to 29 can be used; for a newer engine use a newer layervault"},
		{errs: []error{migrate.ErrClearEngine}, step: "layervault containerd config --write --docker, then restart containerd and docker; --clear moves the images anyway"},
		{errs: []error{migrate.ErrClearFolder}, step: "layervault volume create migration, layervault volume mount migration DIR, then: --dir DIR; --clear accepts any folder"},
		{errs: []error{migrate.ErrSpace}, step: "free some space, or use a folder on another disk (--dir DIR with one engine at a time); --no-space-check goes on anyway"},
		{errs: []error{migrate.ErrBusy}, step: "wait until the other migration ends, then run the command again"},
		{errs: []error{migrate.ErrState}, step: "move state.json away to begin anew: images that were moved are then moved again"},
		{errs: []error{migrate.ErrOtherImage}, step: "remove or rename that tag on one of the two engines, then run the command again"},
		{errs: []error{migrate.ErrArchive}, step: "save the image again from the old engine: layervault migrate run --from ADDRESS --dir DIR"},
		{errs: []error{migrate.ErrUnfinished}, step: "free some space, then run the command again: it goes on where it ended", in: unix.ENOSPC},
		{errs: []error{migrate.ErrUnfinished}, step: "layervault help containerd, \"Moving a host\"; run the command again: it goes on where it ended"},
		{errs: []error{crypt.ErrNoSpace, unix.ENOSPC, unix.EDQUOT}, step: "layervault status shows the space; docker system prune frees some"},
		{errs: []error{engine.ErrNotConfigurable}, step: "run containerd by itself: apt-get install containerd, systemctl enable --now containerd; and name its socket in daemon.json: layervault help containerd"},
		{errs: []error{snapshotter.ErrRunning, snapshotter.ErrInUse}, step: "systemctl stop docker containerd layervault.socket layervault, then try again"},
		{errs: []error{plugin.ErrSnapshots}, step: "layervault help containerd, \"When a database was lost\"; then: layervault snapshot check --mend"},
		{errs: []error{engine.ErrNone}, step: "apt-get install containerd; for a containerd in another place: --config FILE"},
		{errs: []error{engine.ErrEdit, engine.ErrOverridden}, step: "add the printed lines by hand"},
		{errs: []error{engine.ErrRefused}, step: "nothing was changed; containerd config dump shows what containerd reads now"},
		{errs: []error{engine.ErrTOML, engine.ErrJSON}, step: "correct the file that the message names; nothing was changed"},
		{errs: []error{doctor.ErrHost}, step: "see the commands above, then: layervault doctor"},
		// Last: the reason of the first layer comes before.
		{errs: []error{vault.ErrNotSealed}, step: "the report names the layers, which are as they were; run the command again when the reason is gone"},
	}
)

// Snapshot is what to do about a kind of problem that the check of snapshots finds, or "" where
// plugin.ErrSnapshots has the step.
func Snapshot(kind snapshotter.ProblemKind) string {
	switch kind {
	case snapshotter.Lost, snapshotter.Contradicted:
		return "remove the image or container in containerd, and pull the image again"
	case snapshotter.Unfinished:
		return "nothing: containerd commits or removes it"
	}
	return ""
}

// Step is the command to type after an error, or "": errors say what is wrong, Step says what to
// do.
func Step(err error) string {
	switch {
	case err == nil:
		return ""
	case isUsage(err):
		return "layervault --help"
	}
	for i, list := range [][]rule{ofRings, ofTiers, ofTheRest} {
		if i > 0 { // first where a provider's own step helps more than that of every locked tier
			if step := unlock.Step(err, i == 1); step != "" {
				return step
			}
		}
		for _, r := range list {
			if step := r.next(err); step != "" {
				return step
			}
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("run the command as root (you are uid %d)", unix.Geteuid())
	}
	return ""
}
