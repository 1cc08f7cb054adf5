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
// The name is EVE's: a UUID, and a generation counter that is raised when the content is to
// start empty. A volume's [Record] is a token of its image's LUKS2 header (in the clear tier,
// the file volume.json in its folder), so that a copied image still identifies itself. The
// record is written with the image and never changed.
//
// # What is authenticated
//
// An attacker with write access to the switched-off disk can write records. A volume is
// therefore used, changed or removed only if the list of its tier, which is authenticated
// with the tier's key, has the same record. Volumes of the clear tier and on disks have no
// key of their own: they are in the vault's list, and the vault also authenticates their
// record files and the host's revision. The list decides which generation supersedes another.
// A generation, or a folder of the clear tier, that is not in the list supersedes nothing. A
// listed volume that is not on the disk is reported as missing. Garbage collection removes
// only listed generations. In a tier that was not upgraded (floor 1) an unlisted volume is
// accepted within its own place, as before there were lists.
//
// While the vault is locked, volumes without a key of their own are not authenticated. They
// can be used if nothing contradicts them: no image and no list, authentic or not, has their
// name or UUID. They cannot be made, changed or removed then. On a host that never had a
// vault they work without authentication.
//
// A rollback of the whole disk is not detected: lists, records and images that are all
// restored to an earlier state are accepted.
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
// backing.go has what an image, a folder and a volume on a disk have in common; image.go,
// folder.go and ondisk.go implement the three. Everything else is the same for all volumes.
//
// # What a mount is
//
// The image is mounted at a private place, the content's directory is bound to where
// docker, or a person, wants it, and the private mount is detached. That bind mount alone
// keeps file system, dm-crypt and loop device alive: a killed process leaks nothing, and
// when the last mount goes the kernel takes the rest down.
//
// Docker names each of its mounts by an ID, and mounts a volume more than once under one ID
// (docker cp does): IDs are counted, and keep their mount point. They are written to a file
// with the boot ID, so that they survive this process and not a reboot. Whether a volume is
// in use is asked of the kernel: an ID without a mount is dropped, and a mount that only this
// package uses is removed when the process starts, or when docker removes the volume. The
// mount point is removed with its mount: a container that starts too late finds no directory,
// instead of an empty one on the unencrypted disk.
package volume
