// Package driver is the Docker graph driver: Docker's rules of who gets a layer, how
// often, and how large, on the layers that package layer keeps and package stack shows.
//
// The kernel owns all lifetimes. Get opens the images of a chain below a private
// scratch directory, mounts an overlay of them at <home>/<id>/merged, and
// detaches the images: from then on that one mount keeps them open, and
// unmounting it closes them. Counts of Get and Put are kept in memory only; a path
// that is found mounted counts as one, so a restart forgets nothing that matters.
//
// # What a crash may leave
//
//	Get     image mounts below Scratch   gone with the mount namespace, or detached
//	                                     as one when the store is opened again
//	        <home>/<id>/merged, empty    used by the next Get, removed by Remove
//	        <home>/<id>/merged, mounted  counts as one Get; Put unmounts it
//	Put     <home>/<id>/merged, empty    the same as above
//	Remove  mount gone, layer there      dockerd removes again
//	        layer gone, <home>/<id>      dockerd removes again; swept by Init too
//
// What a crash leaves of a layer itself is told in package layer.
package driver
