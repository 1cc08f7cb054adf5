// Package vault is an open vault: the keys of its tiers and everything that they open. Every
// door of the plugin and every verb of the command line works through it.
//
// Three types divide the work:
//
//   - [Contents] says where everything of one tier is on the disk: images, records, locks. It
//     needs no key to list them; with one it rotates the tier's key (Rotate) and restores a
//     backup of the key ring (Restore).
//   - [Vault] opens tiers for one process, each once: their keys, and the stores of layers,
//     volumes and disks.
//   - [Upgrade] brings a tier from format 1 to format 2; [Upgrading] does so while a plugin
//     serves the vault.
//
// Errors are those of packages keys, layer and volume, and the few of this package. They say
// what is wrong; what to do next says the command line.
package vault
