// Package migrate moves images from one Docker engine to another, and lists what else there is to
// move: containers' configuration, networks, volumes. It is made for hosts that go from the graph
// driver (Docker 20.10 to 27) to the snapshotter (Docker 29).
//
// Images go one by one as a tar, saved by the one engine and loaded by the other, or are pulled
// anew. After each both engines must tell the same of it. With one engine alone the images go to,
// or come from, a folder.
//
// Nothing is removed on either side; Clean alone does that, image by image, for what both engines
// still tell the same of.
//
// The folder of a migration, which holds copies of all that the vault is to keep secret:
//
//	.lock                 flock of the process at work
//	state.json            how far each image is
//	images/<hex>.tar      an image, only with one engine alone
//	containers/<name>.json, containers/create.txt, networks.json, volumes.json
//
// What a crash leaves: at most a temporary file (.tmp-*), which the next run replaces, and an
// image that was moved and is not yet in the state, which the next run moves again.
package migrate
