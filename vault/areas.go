package vault

import (
	"layervault/area"
	"layervault/persist"
)

// Areas says how areas are kept. Zero values mean the defaults of package area.
type Areas struct {
	Agents persist.Agents
	Size   int64 // of a new area, in bytes
	Floor  int64 // that the areas leave free of the disk, in bytes
	// Devices makes the images; nil for package crypt's.
	Devices area.Devices
}

// Areas gives the areas of the vault. The tier is opened when an area first needs its key.
func (v *Vault) Areas() *area.Set {
	c := v.cfg.Areas
	return area.New(area.Config{
		Layout: v.cfg.Layout, Keys: v.KeysOf, Agents: c.Agents, Size: c.Size, Floor: c.Floor, Params: v.cfg.CryptParams,
		Devices: c.Devices, Log: v.log,
	})
}
