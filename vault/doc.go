// Package vault is what is done with a whole vault: a tier's key, its layers, its volumes and
// its disks together. So far that is the upgrade of formats.
package vault
