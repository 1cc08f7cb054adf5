// Package convert brings the older layout of EVE's /persist into the vault, without losing a
// byte: disks of VMs, folders of containers, downloads, and containerd's root.
//
// # What goes where
//
// plan.go decides it, from names and from the checkpoint of EVE's configuration (wire.go,
// checkpoint.go). Every item has a reason when it stays where it is. The destinations come
// through the interface Places, so that nothing here knows how an area or a volume is opened.
//
// # How an item moves
//
// move.go has the steps, and what a crash leaves before each. A copy is staged beside its target,
// compared with its source after it was read back from the disk, and renamed; an existing target
// is never replaced. Sources are kept until the commit, because a base-OS update may fall back
// to the old layout; a source that changed since it was copied is kept then, too.
//
// # What is believed
//
// Sources are hostile: their names, links and folders may be anything. at.go opens every folder
// from the one above it, without symbolic links and without crossing mounts. The journal says
// what may be destroyed, so what it names must be a source and a target that a plan could have.
//
// # Cost
//
// Few syncs: /persist is mounted dirsync on EVE, where each small file costs milliseconds. Files
// are copied in batches, in parallel, and a batch is written to the disk by one syncfs. Memory is
// bounded by the batch, whatever a file's or a tree's size.
package convert
