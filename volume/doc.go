// Package volume keeps volumes: directories that outlive containers, each on an
// encrypted image of its own, in a folder of the clear tier, or on a disk of
// Pantavisor's device.json.
//
// # On disk
//
//	<tier>/volumes/<uuid>#<generation>        a LUKS2 image; in the clear tier a folder
//	<tier>/volumes/.<uuid>#<generation>.tmp-* being made, or being removed; swept
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
// # What a mount is
//
// The image is mounted at a private place, the content's directory is bound to where
// docker, or a person, wants it, and the private mount is detached. That bind mount alone
// keeps file system, dm-crypt and loop device alive: a killed process leaks nothing, and
// when the last mount goes the kernel takes the rest down.
//
// Docker names each of its mounts by an id. The ids are written down with the boot's id,
// so that they survive this process and not a reboot; the kernel is the judge of whether
// a volume is in use: an id without its mount is forgotten, and a mount that nobody but
// ourselves uses is taken down when the process starts, or when docker removes the volume.
// The mount point itself is removed with its mount: a container that comes too late finds
// no directory, never an empty one on the unencrypted disk.
package volume
