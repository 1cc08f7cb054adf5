// Package engine knows the container engines of a host: which containerd there is, how it and
// dockerd are configured, and what a running one says of itself. It finds, reads and edits their
// configuration; it knows nothing of images and keys.
//
// A configuration is edited in place and not by a file of its own among the `imports`:
// containerd 1.7 takes a whole plugin's section from the last file that has it, so such a file
// would drop what the main one says of that plugin. Every line stays as it is but those that
// are set. The result is read again, compared with what was meant, and where possible shown to
// the containerd that is to run with it, before it replaces the old file, of which a copy stays.
package engine
