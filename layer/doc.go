// Package layer is the store of image layers: each layer is a directory with a small
// record and one encrypted image. All front doors share the store, which knows nothing
// of overlay mounts or of Docker.
//
// On disk, below Config.Root (/persist/vault/layers):
//
//	.lock                     flock of the one process that owns the store
//	<id>/layer.json           the record; its presence is what makes the layer exist
//	<id>/image.luks           the encrypted image, absent while the kind is "fresh"
//	.tmp-*                    work in progress, garbage after a restart
//
// # What a crash may leave
//
// Every change becomes real by one rename, and what is not yet real has a name
// that begins with ".tmp-" (which is no valid id), so a start needs one readdir
// of the root to find all garbage. In the order of the steps:
//
//	Create          .tmp-<id>-*/ with or without layer.json       swept
//	                <id>/ after the rename                        the layer exists
//	image making    .tmp-<id>-*/image.luks                        erased and swept
//	                <id>/image.luks while layer.json says fresh   never answered for:
//	                                                              erased when next needed
//	                layer.json says writable or sealed            done
//	Remove          .tmp-remove-<id>-*/                           the layer is gone; the
//	                                                              sweep erases the image
//
// # What is believed
//
// An attacker with write access to the switched-off disk can write records. So each record is
// authenticated by the vault's key when it is read from the disk, and names the UUID of its
// image and, if the parent's image is never replaced, of that image too: records cannot be
// exchanged, changed, or combined from older ones. Version 1 records have no authentication,
// and are accepted only while the vault's floor is 1. Replay of the whole store is not
// detected.
//
// Nothing else is stored: children are counted from the records, mounts are read from
// the kernel.
package layer
