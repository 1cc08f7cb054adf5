// Package layertar turns the tar of an image layer into the files of a file system, as
// docker's overlay2 unpacks it. What file system that is, is the business of the Writer
// that it is given.
package layertar
