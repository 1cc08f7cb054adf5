// Package area opens the folders of the vault that lie on encrypted images of their own: what
// is being downloaded, what is being verified, and the store of content (persist.Areas).
//
// # On disk
//
//	vault/areas/<area>         a LUKS2 image with a writable ext4; its kind is "area"
//	vault/areas/.<area>.tmp-*  being made; swept
//	vault/areas/.lock          one byte is locked for each area at work
//	vault/<area>               the mount point: empty, mode 0000, immutable where the file
//	                           system knows that
//
// The image's header is authenticated with a key that follows from the tier's, the kind and the
// area's name: one area's image does not open as another's, nor as a volume. There is no other
// record. What a mounted area is, and whether one is, the kernel says.
//
// # What an open area is
//
// The image is mounted at a private place, its folder "diff" gets the owner and the mode of the
// area and is bound to vault/<area>, and the private mount is detached. That bind mount alone
// keeps file system, dm-crypt and loop device alive, so no process has to run. Nothing is written
// where no image is mounted: the mount point forbids it, to root too where it can be immutable.
// An area is never replaced by a plain directory; a tier that does not open leaves it closed.
//
// # Room
//
// An image is sparse and as large as its disk: it takes the room that it uses, and gives back
// what is deleted (discard, and Trim). A file system that grows with a key and a privilege would
// not do: the agents that fill an area have neither, and containerd knows nothing of this
// package. But a sparse image of that size would fill the disk, on which everything else then
// fails, the areas' own writes with I/O errors. So Bound limits the file system from within: it
// tells ext4 to reserve all free blocks but as many as the disk has above its floor. The kernel
// refuses what is beyond with ENOSPC, to root as well. The limit moves both ways, needs no key,
// and lasts until it is set anew: at Open, and by a process that repeats it (Watch).
//
// # What a crash leaves
//
//	Create: image being made            a temporary file, which Sweep removes
//	Create: image renamed               the area, closed
//	Open: mount point made              the area, closed
//	Open: image at a private mount      that mount, which Sweep detaches
//	Open: owner and mode set            the same; they are set at each Open
//	Open: bound to vault/<area>         the area, open, unlimited until the next Bound
//	Close: unmounted                    the area, closed
//
// Each call can be repeated, and then finishes.
package area
