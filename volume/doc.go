// Package volume keeps volumes: directories that outlive containers, each on an
// encrypted image of its own, in a folder of the clear tier, or on a disk of
// Pantavisor's device.json.
//
// # On disk
//
//	<tier>/volumes/<uuid>#<generation>        a LUKS2 image; in the clear tier a folder
//	<tier>/volumes/.<uuid>#<generation>.tmp-* being made, or being removed; swept
//	<tier>/volumes.json                       which volumes there are, authenticated by the tier's key
//	volumes/lock                              one byte is locked for each volume in use, see locks
//	volumes/mounts/<uuid>#<generation>.json   what docker mounted in this boot
//	volumes/on-disks/<uuid>#<generation>.json the record of a volume on a disk
//	volumes/revision.json                     which revision this host runs
//
// The name is EVE's: a UUID, and a generation counter that grows whenever the content is
// to begin anew. A volume's [Record] is a token of its image's LUKS2 header (in the clear
// tier, the file volume.json in its folder), so that an image that was copied elsewhere
// still says what it is. It is written with the image and never again.
//
// # What is believed
//
// Whoever can write to the switched-off disk can write records. So a volume is used, changed
// or removed only if the list of its tier, which is written with the tier's key, has it and
// says the same; the vault's list has the volumes of the clear tier, and on disks, too, as
// they have no key of their own, and their records in files, and the host's revision, are
// authenticated by the vault besides. The list says what superseded what: a generation, or a
// folder of the clear tier, that it does not know takes nobody's place, what it has and the
// disk has not is said to be missing, and nothing is collected that it does not vouch for.
// In a tier that was not upgraded (floor 1) a volume that is not listed is believed as it
// was before there were lists, within its own place.
//
// While the vault is locked nothing vouches for volumes without a key of their own. They can
// be used where nothing contradicts them: no image and no list, authentic or not, has their
// name or UUID. They cannot be made, changed or removed then. Where there never was a vault
// there is nobody to vouch for them, and they work as they are.
//
// Nothing here knows that everything on the disk is of the same age: lists, records and
// images that are all put back together to what they were are as good as they were then.
//
// In the file system of an image, or in the folder of the clear tier:
//
//	diff/             the content of a permanent volume, or of one that lasts a boot
//	rev/<revision>/   the content of a volume that belongs to a revision
//	boot-id           of the boot that diff/ belongs to
//
// and on a disk, as Pantavisor has it, with the platform (container) P and the volume V:
//
//	perm/P/V   rev/<revision>/P/V   boot/P/V
//
// # What a volume is made of
//
// backing.go says what an image, a folder and a volume on a disk have in common, image.go,
// folder.go and ondisk.go what each does in its way. All else is the same for the three.
//
// # What a mount is
//
// The image is mounted at a private place, the content's directory is bound to where
// docker, or a person, wants it, and the private mount is detached. That bind mount alone
// keeps file system, dm-crypt and loop device alive: a killed process leaks nothing, and
// when the last mount goes the kernel takes the rest down.
//
// Docker names each of its mounts by an id, and mounts some more than once under it (docker
// cp does): ids are counted, and keep their place. They are written down with the boot's id,
// so that they survive this process and not a reboot; the kernel is the judge of whether
// a volume is in use: an id without its mount is forgotten, and a mount that nobody but
// ourselves uses is taken down when the process starts, or when docker removes the volume.
// The mount point itself is removed with its mount: a container that comes too late finds
// no directory, never an empty one on the unencrypted disk.
package volume
