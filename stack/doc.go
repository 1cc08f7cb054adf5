// Package stack puts the open images of layers on each other: overlay mounts, the changes of a
// layer over another, those changes as a tar, and sizes. It knows whiteouts and tars, but no
// container engine: every front door that shows layers stands on it.
//
// A [Chain] is the images of a layer and of all layers below it, opened at a private place. It is
// mounted at a place of the caller's choice and closed again at once: the kernel keeps the images
// open as long as that mount is there. Where another process is to make the mount, each layer is
// attached at a place that lasts, see [Stack.Attach], and the mount described by [Spec].
package stack
