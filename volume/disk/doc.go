// Package disk keeps Pantavisor's disks: it reads device.json, and opens what it
// describes.
package disk

// KeyKind is the part of the key derivation that tells disks of type luks from layers and
// volumes.
const KeyKind = "disk"
