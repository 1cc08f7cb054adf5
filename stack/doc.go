// Package stack combines the open images of layers: overlay mounts, the changes of a layer
// over another, those changes as a tar, and sizes. It knows whiteouts and tars, but no
// container engine: every front door that shows layers uses it.
//
// A [Chain] is the images of a layer and of all layers below it, opened at a private place. The
// caller mounts a chain and closes it at once: the kernel keeps the images open as long as the
// mount exists. If another process makes the mount, each layer is attached at a permanent path,
// see [Stack.Attach], and the mount is described by [Spec].
package stack
