// Package snapshotter is containerd's view of the layers: snapshots that are prepared,
// committed, viewed and removed, each one layer of the store, and a differ that imports a
// blob straight into a layer's image.
//
// # Where things are
//
//	Config.Dir/metadata.db    names, labels and times of snapshots: containerd's own
//	                          core/snapshots/storage, and in the same transactions which
//	                          layer a snapshot is, and which layers are to be erased
//	Config.Mounts/<layer>     the image of a layer, attached in the host's mount namespace
//	                          while a snapshot that was handed out shows it
//
// A snapshot is one layer, whose id is random:
//
//	active       writable image, own key; none while it waits for our differ (see unpacks.go);
//	             sealed once our differ filled it
//	committed    the same layer: writable, now shown read-only, or sealed
//	view         a record without an image, which names the parent
//
// # What is believed
//
// The database lies on the disk, without authentication. It only finds things: which layer a
// name is, is read there, and the record of that layer, authenticated by the vault's key, must
// then have this name and this state. Its parents are those of the records, never those of the
// database. So an edited database can hide a snapshot or lose it, but cannot exchange one for
// another. Stat, Walk and Update show what the database says: nothing is opened by that.
//
// # What a crash may leave
//
//	Prepare, View   in the database, then the layer: a snapshot whose layer is missing was
//	                never answered for (ErrLost); containerd's garbage collection removes it
//	Commit          the intention in the database, the layer's record, then the database:
//	                the snapshot is still active there, but cannot be mounted, only
//	                committed again or removed
//	Remove          gone from the database, which lists the layer as one to be erased:
//	                done at the next start
//
// A layer that the database does not know is never removed: the database may be the older of
// the two.
//
// # Mounts
//
// Each snapshot has exactly one mount, overlay or bind, with no options but those by which
// BuildKit recognises an overlay. The kernel keeps what is attached, over a restart of the
// process. After a reboot the images are opened again when Mounts is called.
package snapshotter
