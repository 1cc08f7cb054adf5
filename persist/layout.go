// Package persist knows where things lie under /persist: the tiers and the
// folders in each (the layout of EVE's "New /persist layout", seed
// eve-persist-layout).
package persist

import "path/filepath"

// DefaultRoot is the folder that holds every tier. It is a setting of the
// plugin (persist.source) and of each command (--persist).
const DefaultRoot = "/persist"

// Tier names one protection class under the root.
type Tier string

// The tiers. Vault is sealed under PCRs (or another provider), Unsealed is held
// by the TPM but not under PCRs, Clear is not encrypted at all.
const (
	Vault    Tier = "vault"
	Unsealed Tier = "unsealed-vault"
	Clear    Tier = "clear"
)

// Layout gives the paths below one root.
type Layout struct {
	Root string // an absolute path, DefaultRoot in production
}

// Tier is the folder of one tier.
func (l Layout) Tier(t Tier) string { return filepath.Join(l.Root, string(t)) }

// Layers is the folder that holds one folder per image layer of a tier.
func (l Layout) Layers(t Tier) string { return filepath.Join(l.Tier(t), "layers") }

// Snapshots is the folder with the database of containerd's snapshots. Their content is in
// Layers.
func (l Layout) Snapshots(t Tier) string { return filepath.Join(l.Tier(t), "snapshots") }

// KeyRing is the file with the slots that hold the tier's key.
func (l Layout) KeyRing(t Tier) string { return filepath.Join(l.Tier(t), "keyring.json") }

// Volumes is the folder that holds the volumes of a tier: an image, or in the clear tier
// a folder, named by volume UUID and generation counter.
func (l Layout) Volumes(t Tier) string { return filepath.Join(l.Tier(t), "volumes") }

// VolumeList is the file with the authenticated list of a tier's volumes; the vault's has
// those of the clear tier, and on disks, too.
func (l Layout) VolumeList(t Tier) string { return filepath.Join(l.Tier(t), "volumes.json") }

// Disks is the folder that holds the images of a tier's own disks (type luks of
// device.json).
func (l Layout) Disks(t Tier) string { return filepath.Join(l.Tier(t), "disks") }

// VolumeState is the folder with what belongs to volumes of every tier: a lock, the mounts
// that docker asked for, records of volumes that lie on a disk of device.json, and which
// revision the host runs. There is no secret in it.
func (l Layout) VolumeState() string { return filepath.Join(l.Root, "volumes") }
