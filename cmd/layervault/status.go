package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"layervault/keys"
	"layervault/keys/unlock"
	"layervault/layer"
	"layervault/persist"
	"layervault/vault"
	"layervault/volume"
)

// status is the answer of layervault status --json.
type status struct {
	Persist string       `json:"persist"`
	Vault   vaultStatus  `json:"vault"`
	Tiers   []tierStatus `json:"tiers"`
	Layers  layerStatus  `json:"layers"`
	Volumes volumeStatus `json:"volumes"`
	Formats formatStatus `json:"formats"`
	Kernel  kernelStatus `json:"kernel"`
	Space   spaceStatus  `json:"space"`
}

// The states of a vault.
const (
	vaultAbsent  = "absent"  // no key ring: the plugin has not started yet
	vaultOpens   = "open"    // a slot opens without a person
	vaultLocked  = "locked"  // none does; reason says why
	vaultDamaged = "damaged" // the key ring cannot be read
)

type vaultStatus struct {
	State    string           `json:"state"`
	OpenedBy string           `json:"opened_by,omitempty"` // slot id
	Reason   string           `json:"reason,omitempty"`
	Hint     string           `json:"hint,omitempty"`
	Slots    []keys.SlotState `json:"slots"`
	// Anchored: a TPM remembers the newest write of the ring; see ringView.
	Anchored bool `json:"anchored"`
}

type tierStatus struct {
	Name  string `json:"name"`
	Path  string `json:"path"`
	State string `json:"state"` // a vault state; "clear" where nothing is encrypted
}

// formatStatus is what the sealed tiers have of each format, as the disk says it.
type formatStatus struct {
	Floor      int `json:"floor"` // the lowest that is accepted, of all tiers; 0 where there is no ring
	Images     int `json:"images"`
	OldImages  int `json:"old_images"` // of format 1
	Records    int `json:"records"`
	OldRecords int `json:"old_records"`
}

type layerStatus struct {
	Fresh    int            `json:"fresh"`
	Writable int            `json:"writable"`
	Sealed   int            `json:"sealed"`
	Damaged  int            `json:"damaged"`
	Disk     int64          `json:"disk_bytes"`
	Ciphers  map[string]int `json:"ciphers"` // images by cipher
	Mounted  int            `json:"mounted"` // layers mounted in this mount namespace
}

type volumeStatus struct {
	Encrypted  int `json:"encrypted"` // images of their own
	Clear      int `json:"clear"`
	OnDisks    int `json:"on_disks"`   // of device.json
	Superseded int `json:"superseded"` // old generations, counted above as well
	Damaged    int `json:"damaged"`    // counted here only
}

func newStatusCommand(a *app) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the vault, its key slots, the layers, the volumes and the space",
		Long: `Show the vault, its key slots, the layers, the volumes and the space.

It asks the disk and the kernel, not the plugin: it works beside a running plugin,
without one, and while the vault is locked. A locked vault is exit status 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.checkKey(); err != nil {
				return err
			}
			st, err := a.readStatus(cmd.Context(), s)
			if printErr := a.printStatus(st); printErr != nil {
				return printErr
			}
			return err
		},
	}
	s.registerKey(cmd.Flags(), a.env)
	return cmd
}

// readStatus collects what can be found out. Its error is why the vault does not
// open; a vault that does not exist yet is none.
func (a *app) readStatus(ctx context.Context, s settings) (status, error) {
	st := status{Persist: a.persist}
	var vaultErr error
	st.Vault, vaultErr = readVault(ctx, a.keyConfig(s, nil))
	st.Tiers = a.readTiers(st.Vault.State)
	rows, layersErr := a.images(ctx)
	st.Layers = countLayers(rows, layersErr)
	var formatsErr error
	st.Formats, formatsErr = a.readFormats(ctx)
	volumes, volumesErr := volume.List(ctx, a.layout())
	st.Volumes = countVolumes(volumes)
	var spaceErr, kernelErr error
	st.Space, spaceErr = readSpace(a.persist)
	st.Kernel, st.Layers.Mounted, kernelErr = readKernel(rows)
	return st, errors.Join(vaultErr, layersErr, formatsErr, volumesErr, spaceErr, kernelErr)
}

// readVault tries every slot that needs no person.
func readVault(ctx context.Context, cfg unlock.Config) (vaultStatus, error) {
	v := vaultStatus{Slots: []keys.SlotState{}}
	ring, err := cfg.Load(ctx)
	switch {
	case errors.Is(err, keys.ErrNoRing):
		v.State, v.Reason, v.Hint = vaultAbsent, "no key ring at "+cfg.RingPath(), nextStep(err)
		return v, nil
	case err != nil:
		v.State, v.Reason, v.Hint = vaultDamaged, err.Error(), nextStep(err)
		return v, err
	}
	v.Anchored, cfg.Looking = ring.Anchored(), true
	providers, err := cfg.Providers()
	if err != nil {
		v.State, v.Reason = vaultLocked, err.Error()
		return v, err
	}
	v.Slots = ring.Probe(ctx, providers...)
	for _, slot := range v.Slots {
		if slot.State == keys.StateOpens {
			v.State, v.OpenedBy = vaultOpens, slot.ID
			return v, nil
		}
	}
	// Unlock makes the error that names each slot's reason.
	key, _, err := ring.Unlock(ctx, providers...)
	if err == nil {
		v.State = vaultOpens
		return v, key.Close()
	}
	v.State, v.Reason, v.Hint = vaultLocked, err.Error(), nextStep(err)
	return v, err
}

func (a *app) readTiers(vault string) []tierStatus {
	l := a.layout()
	tiers := []tierStatus{{string(persist.Vault), l.Tier(persist.Vault), vault}}
	for _, t := range []persist.Tier{persist.Unsealed, persist.Clear} {
		state := vaultAbsent
		if exists(l.Tier(t)) {
			state = "present"
		}
		if t == persist.Clear && state != vaultAbsent {
			state = "clear"
		}
		tiers = append(tiers, tierStatus{string(t), l.Tier(t), state})
	}
	return tiers
}

// readFormats counts what the tiers have of each format. What cannot be read is counted
// with the layers and volumes.
func (a *app) readFormats(ctx context.Context) (st formatStatus, err error) {
	for _, tier := range sealedTiers {
		ring, err := keys.Load(ctx, a.layout().KeyRing(tier), nil)
		if err != nil {
			continue // a vault that is absent or damaged is told of elsewhere
		}
		if st.Floor == 0 || ring.Floor() < st.Floor {
			st.Floor = ring.Floor()
		}
		f, err := vault.Survey(ctx, a.contents(tier, nil), nil)
		if err != nil {
			return st, err
		}
		st.Images, st.OldImages = st.Images+f.Images, st.OldImages+len(f.OldImages)
		st.Records, st.OldRecords = st.Records+f.Records, st.OldRecords+len(f.OldRecords)
	}
	return st, nil
}

// line is the formats for people.
func (f formatStatus) line() string {
	old := fmt.Sprintf("%d of %d images and %d of %d records", f.OldImages, f.Images, f.OldRecords, f.Records)
	switch {
	case f.Floor == 0:
		return "-"
	case f.Floor < keys.Format2:
		return "1: " + old + " of the vaults are of format 1; layervault vault upgrade"
	case f.OldImages+f.OldRecords > 0:
		return "2, format 1 is refused; refused: " + old
	}
	return "2, format 1 is refused"
}

func countLayers(rows []imageRow, err error) layerStatus {
	st := layerStatus{Ciphers: map[string]int{}}
	for _, r := range rows {
		switch r.Kind {
		case layer.Fresh:
			st.Fresh++
		case layer.Writable:
			st.Writable++
		case layer.Sealed:
			st.Sealed++
		}
		if r.Error != "" {
			st.Damaged++
		}
		if r.Cipher != "" {
			st.Ciphers[r.Cipher]++
		}
		st.Disk += r.Disk
	}
	// Records that cannot be read are no rows; each is one line of the error.
	if errors.Is(err, layer.ErrDamaged) {
		st.Damaged += strings.Count(err.Error(), "\n") + 1
	}
	return st
}

func countVolumes(volumes []volume.Volume) (st volumeStatus) {
	for _, v := range volumes {
		switch {
		case v.Damage != nil:
			st.Damaged++
		case v.Options.Disk != "":
			st.OnDisks++
		case v.IsImage():
			st.Encrypted++
		default:
			st.Clear++
		}
		if v.Superseded {
			st.Superseded++
		}
	}
	return st
}

func (a *app) printStatus(st status) error {
	if a.json {
		return a.printJSON(st)
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("Vault", "%s", st.Vault.State)
	if st.Vault.Reason != "" {
		line("  why", "%s", st.Vault.Reason)
	}
	for _, slot := range st.Vault.Slots {
		text := slotLine(slot) + ": " + string(slot.State)
		if slot.Reason != "" {
			text += ": " + slot.Reason
		}
		line("  key slot", "%s", text)
	}
	if st.Vault.State == vaultOpens { // only then is it to be believed
		line("  key ring", "%s", anchorLine(st.Vault.Anchored))
	}
	for _, t := range st.Tiers {
		line("Tier", "%-15s %-8s %s", t.Name, t.State, t.Path)
	}
	line("Format", "%s", st.Formats.line())
	ciphers := make([]string, 0, len(st.Layers.Ciphers))
	for c, n := range st.Layers.Ciphers {
		ciphers = append(ciphers, fmt.Sprintf("%s (%d images)", c, n))
	}
	slices.Sort(ciphers)
	line("Cipher", "%s", orDash(strings.Join(ciphers, ", ")))
	line("Layers", "%d sealed, %d writable, %d fresh, %d damaged, %s on disk",
		st.Layers.Sealed, st.Layers.Writable, st.Layers.Fresh, st.Layers.Damaged, size(st.Layers.Disk))
	line("Volumes", "%d encrypted, %d clear, %d on disks, %d superseded, %d damaged",
		st.Volumes.Encrypted, st.Volumes.Clear, st.Volumes.OnDisks, st.Volumes.Superseded, st.Volumes.Damaged)
	line("Mounted", "%d layers here, %d images open in the kernel", st.Layers.Mounted, st.Kernel.OpenImages)
	line("Space", "%s free of %s (%s)", size(st.Space.Free), size(st.Space.Total), orDash(st.Space.Filesystem))
	return a.printf("%s", b.String())
}
