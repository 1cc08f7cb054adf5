// Package docker is a small client of the Docker Engine's API over its unix socket: what moving
// images from one engine to another needs, and nothing else. It speaks the newest version of the
// API that both sides know. It keeps nothing and prints nothing.
package docker
