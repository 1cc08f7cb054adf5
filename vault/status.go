package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"

	"layervault/crypt"
	"layervault/internal/mounts"
	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/volume"
)

// What a status reads comes from the disk and the kernel, not from a plugin. Nothing is
// written. The JSON names are those of layervault status --json.

// The states of a vault.
const (
	StateAbsent  = "absent"  // no key ring: the plugin has not started yet
	StateOpen    = "open"    // a slot opens without a person
	StateLocked  = "locked"  // none does; Reason says why
	StateDamaged = "damaged" // the key ring cannot be read
)

// State is what opens a vault, or what keeps it shut.
type State struct {
	State    string           `json:"state"`
	OpenedBy string           `json:"opened_by,omitempty"` // slot id
	Reason   string           `json:"reason,omitempty"`
	Hint     string           `json:"hint,omitempty"` // for the caller to fill in
	Slots    []keys.SlotState `json:"slots"`
	// Anchored: a TPM remembers the ring's newest write. Otherwise an older ring, with slots
	// that were removed since, could be put in place unnoticed.
	Anchored bool `json:"anchored"`
}

// AnchorLine says for people whether an older ring would be noticed.
func AnchorLine(anchored bool) string {
	if anchored {
		return "TPM has a record of this key ring: an older ring is refused"
	}
	return "no TPM record of this key ring: an older ring cannot be detected"
}

// ReadState tries every slot that needs no person. Its error is why the vault does not open,
// which State says too; with a vault that is absent it is keys.ErrNoRing.
func ReadState(ctx context.Context, cfg unlock.Config) (State, error) {
	s := State{Slots: []keys.SlotState{}}
	ring, err := cfg.Load(ctx)
	switch {
	case errors.Is(err, keys.ErrNoRing):
		s.State, s.Reason = StateAbsent, "no key ring at "+cfg.RingPath()
		return s, err
	case err != nil:
		s.State, s.Reason = StateDamaged, err.Error()
		return s, err
	}
	s.Anchored, cfg.Looking = ring.Anchored(), true
	providers, err := cfg.Providers()
	if err != nil {
		s.State, s.Reason = StateLocked, err.Error()
		return s, err
	}
	s.Slots = ring.Probe(ctx, providers...)
	for _, slot := range s.Slots {
		if slot.State == keys.StateOpens {
			s.State, s.OpenedBy = StateOpen, slot.ID
			return s, nil
		}
	}
	// Unlock makes the error that names each slot's reason.
	key, _, err := ring.Unlock(ctx, providers...)
	if err == nil {
		s.State = StateOpen
		return s, key.Close()
	}
	s.State, s.Reason = StateLocked, err.Error()
	return s, err
}

// TierState is one tier.
type TierState struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	State string `json:"state"` // a state of a vault, "present", or "clear" where nothing is encrypted
}

// Tiers says of each tier whether it is there; vault is the state of the vault tier.
func Tiers(l persist.Layout, vault string) []TierState {
	tiers := []TierState{{string(persist.Vault), l.Tier(persist.Vault), vault}}
	for _, t := range []persist.Tier{persist.Unsealed, persist.Clear} {
		state := "present"
		switch {
		case !exists(l.Tier(t)):
			state = StateAbsent
		case t == persist.Clear:
			state = "clear"
		}
		tiers = append(tiers, TierState{string(t), l.Tier(t), state})
	}
	return tiers
}

// FormatCounts is what the sealed tiers have of each format, as the disk says it.
type FormatCounts struct {
	Floor      int `json:"floor"` // the lowest that is accepted, of all tiers; 0 where there is no ring
	Images     int `json:"images"`
	OldImages  int `json:"old_images"` // of format 1
	Records    int `json:"records"`
	OldRecords int `json:"old_records"`
}

// CountFormats counts what the sealed tiers have of each format.
func (v *Vault) CountFormats(ctx context.Context) (n FormatCounts, err error) {
	for _, tier := range SealedTiers {
		ring, err := keys.Load(ctx, v.cfg.Layout.KeyRing(tier), nil)
		if err != nil {
			continue // ReadState tells of a vault that is absent or damaged
		}
		if n.Floor == 0 || ring.Floor() < n.Floor {
			n.Floor = ring.Floor()
		}
		f, err := Survey(ctx, v.Contents(tier), nil)
		if err != nil {
			return n, err
		}
		n.Images, n.OldImages = n.Images+f.Images, n.OldImages+len(f.OldImages)
		n.Records, n.OldRecords = n.Records+f.Records, n.OldRecords+len(f.OldRecords)
	}
	return n, nil
}

// String is the formats for people.
func (n FormatCounts) String() string {
	old := fmt.Sprintf("%d of %d images and %d of %d records", n.OldImages, n.Images, n.OldRecords, n.Records)
	switch {
	case n.Floor == 0:
		return "-"
	case n.Floor < keys.Format2:
		return "1: " + old + " of the vaults are of format 1; layervault vault upgrade"
	case n.OldImages+n.OldRecords > 0:
		return "2, format 1 is refused; refused: " + old
	}
	return "2, format 1 is refused"
}

// LayerCounts counts layers by kind.
type LayerCounts struct {
	Fresh    int            `json:"fresh"`
	Writable int            `json:"writable"`
	Sealed   int            `json:"sealed"`
	Damaged  int            `json:"damaged"`
	Disk     int64          `json:"disk_bytes"`
	Ciphers  map[string]int `json:"ciphers"` // images by cipher
	Mounted  int            `json:"mounted"` // layers mounted in this mount namespace
	// Changed are open layers in which the kernel has read a block that was changed on the disk;
	// null where the caller may not ask.
	Changed []string `json:"changed"`
}

// CountLayers counts what ReadLayers gave.
func CountLayers(rows []LayerRow, err error) LayerCounts {
	n := LayerCounts{Ciphers: map[string]int{}}
	for _, r := range rows {
		switch r.Kind {
		case layer.Fresh:
			n.Fresh++
		case layer.Writable:
			n.Writable++
		case layer.Sealed:
			n.Sealed++
		}
		if r.Error != "" {
			n.Damaged++
		}
		if r.Cipher != "" {
			n.Ciphers[r.Cipher]++
		}
		n.Disk += r.Disk
	}
	// Records that cannot be read are no rows; each is one line of the error.
	if errors.Is(err, layer.ErrDamaged) {
		n.Damaged += strings.Count(err.Error(), "\n") + 1
	}
	return n
}

// VolumeCounts counts volumes by what they are made of.
type VolumeCounts struct {
	Encrypted  int `json:"encrypted"` // images of their own
	Clear      int `json:"clear"`
	OnDisks    int `json:"on_disks"`   // of device.json
	Superseded int `json:"superseded"` // old generations, counted above as well
	Damaged    int `json:"damaged"`    // counted here only
}

// CountVolumes counts what volume.List gave.
func CountVolumes(volumes []volume.Volume) (n VolumeCounts) {
	for _, v := range volumes {
		switch {
		case v.Damage != nil:
			n.Damaged++
		case v.Options.Disk != "":
			n.OnDisks++
		case v.IsImage():
			n.Encrypted++
		default:
			n.Clear++
		}
		if v.Superseded {
			n.Superseded++
		}
	}
	return n
}

// OpenImages counts images that the kernel has open, and the given layers that are mounted
// here. It reads sysfs and not device-mapper's control device, which an ordinary user may not
// open and which may be absent.
func OpenImages(rows []LayerRow) (open, mounted int, err error) {
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return 0, 0, fmt.Errorf("list device-mapper devices: %w", err)
	}
	for _, name := range names {
		// A device that went away in between is no longer open.
		b, err := os.ReadFile(name)
		if err == nil && crypt.IsImageDevice(strings.TrimSuffix(string(b), "\n")) {
			open++
		}
	}
	ids := make(map[string]bool, len(rows))
	for _, r := range rows {
		ids[r.Layer] = true
	}
	// The driver shows a layer at HOME/ID/merged.
	infos, err := mounts.List(func(m *mountinfo.Info) bool {
		dir, base := filepath.Split(m.Mountpoint)
		return m.FSType == "overlay" && base == "merged" && ids[filepath.Base(dir)]
	})
	if err != nil {
		return open, 0, err
	}
	seen := map[string]bool{}
	for _, m := range infos {
		seen[m.Mountpoint] = true
	}
	return open, len(seen), nil
}

// Status is all that can be found out of a vault from the disk and the kernel.
type Status struct {
	Persist string       `json:"persist"`
	Vault   State        `json:"vault"`
	Tiers   []TierState  `json:"tiers"`
	Layers  LayerCounts  `json:"layers"`
	Volumes VolumeCounts `json:"volumes"`
	Formats FormatCounts `json:"formats"`
	Kernel  Kernel       `json:"kernel"`
}

// Kernel is what the kernel has open.
type Kernel struct {
	OpenImages int `json:"open_images"`
}

// ReadStatus collects what can be found out; hint is the command to type after an error. Its
// error is why the vault does not open; a vault that does not exist yet is none.
func (v *Vault) ReadStatus(ctx context.Context, hint func(error) string) (st Status, err error) {
	l := v.cfg.Layout
	st.Persist = l.Root
	var vaultErr, formatsErr, kernelErr error
	st.Vault, vaultErr = ReadState(ctx, v.cfg.Keys(persist.Vault))
	st.Vault.Hint = hint(vaultErr)
	if st.Vault.State == StateAbsent {
		vaultErr = nil
	}
	st.Tiers = Tiers(l, st.Vault.State)
	rows, layersErr := ReadLayers(ctx, l)
	st.Layers = CountLayers(rows, layersErr)
	st.Formats, formatsErr = v.CountFormats(ctx)
	volumes, volumesErr := volume.List(ctx, l)
	st.Volumes = CountVolumes(volumes)
	st.Kernel.OpenImages, st.Layers.Mounted, kernelErr = OpenImages(rows)
	var changedErr error
	st.Layers.Changed, changedErr = ChangedLayers(rows)
	return st, errors.Join(vaultErr, layersErr, formatsErr, volumesErr, kernelErr, changedErr)
}
