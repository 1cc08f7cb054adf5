package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"layervault/area"
	"layervault/keys"
	"layervault/persist"
)

// The states of a conversion of an older device.
const (
	ConversionNone    = "not needed" // there is nothing of the old layout
	ConversionPending = "pending"
	ConversionDone    = "done"
)

// How a tier is unlocked, in the words of EVE where EVE has one.
const (
	MethodNone   = "none"             // it is not
	MethodSealed = "tpm-local-sealed" // by this machine's TPM alone
	MethodPerson = "controller-key"   // by a key that came from outside
	MethodNoTPM  = "no-tpm"           // by a key of this machine that no TPM holds
)

// LayoutTier is one tier in persist status. The JSON names are those of persist status --json.
type LayoutTier struct {
	Name     string       `json:"name"`
	Path     string       `json:"path"`
	State    string       `json:"state"`              // as TierState has it
	Provider string       `json:"provider,omitempty"` // of the slot that opens
	Method   string       `json:"method"`             // one of the words above
	Reason   string       `json:"reason,omitempty"`
	Areas    []area.State `json:"areas,omitempty"`
}

// LayoutStatus is the state of the layout. The JSON names are those of persist status --json.
type LayoutStatus struct {
	Persist string       `json:"persist"`
	Tiers   []LayoutTier `json:"tiers"`
	// Unlocked: the vault's key opens, and the areas are mounted. It is so before a conversion
	// begins.
	Unlocked   bool   `json:"unlocked"`
	Conversion string `json:"conversion"`
	// Ready: unlocked, and converted where there was something to convert.
	Ready bool `json:"ready"`
	// Maintenance: the vault is there and does not open, or one of its areas does not. Nothing
	// else is put in its place.
	Maintenance bool      `json:"maintenance"`
	Room        area.Room `json:"room"`
	Wrong       []string  `json:"wrong,omitempty"` // directories that are not as the layout has them
}

// ReadLayout collects the state of the layout. It writes nothing and mounts nothing. Its error
// is why the vault does not open; a vault that does not exist yet is none.
func (v *Vault) ReadLayout(ctx context.Context) (st LayoutStatus, err error) {
	l := v.cfg.Layout
	st.Persist = l.Root
	set := v.Areas()
	var vaultErr error
	for _, tier := range SealedTiers {
		t, err := v.readTier(ctx, tier)
		if tier == persist.Vault {
			vaultErr = err
			for _, a := range persist.Areas {
				t.Areas = append(t.Areas, set.State(a))
			}
			st.judge(t)
		}
		st.Tiers = append(st.Tiers, t)
	}
	clear := LayoutTier{Name: string(persist.Clear), Path: l.Tier(persist.Clear), State: "clear", Method: MethodNone}
	if !exists(clear.Path) {
		clear.State = StateAbsent
	}
	st.Tiers = append(st.Tiers, clear)
	st.Conversion = conversion(l)
	st.Ready = st.Unlocked && st.Conversion != ConversionPending
	var dirsErr, roomErr error
	st.Wrong, dirsErr = checkDirs(l)
	st.Room, roomErr = set.Room()
	if errors.Is(roomErr, fs.ErrNotExist) {
		roomErr = nil
	}
	return st, errors.Join(vaultErr, dirsErr, roomErr)
}

// judge fills in what follows from the vault's state. A tier that is absent, with areas that are
// absent, is not broken.
func (st *LayoutStatus) judge(t LayoutTier) {
	st.Unlocked = t.State == StateOpen
	broken := t.State == StateLocked || t.State == StateDamaged
	for _, a := range t.Areas {
		st.Unlocked = st.Unlocked && a.State == area.StateOpen
		broken = broken || a.State == area.StateDamaged || a.State == area.StateAbsent && t.State != StateAbsent
	}
	st.Maintenance = broken
}

// readTier reads a tier that has a key.
func (v *Vault) readTier(ctx context.Context, tier persist.Tier) (LayoutTier, error) {
	s, err := ReadState(ctx, v.cfg.Keys(tier))
	t := LayoutTier{Name: string(tier), Path: v.cfg.Layout.Tier(tier), State: s.State, Reason: s.Reason, Method: MethodNone}
	for _, slot := range s.Slots {
		if slot.ID == s.OpenedBy {
			t.Provider, t.Method = slot.Provider, methodOf(slot)
		}
	}
	if errors.Is(err, keys.ErrNoRing) {
		t.Reason, err = "", nil
	}
	return t, err
}

func methodOf(s keys.SlotState) string {
	switch {
	case s.State != keys.StateOpens:
		return MethodNone
	case s.Provider == "tpm" && !s.Software:
		return MethodSealed
	case s.Provider == "agent" || s.Provider == "recovery":
		return MethodPerson
	}
	return MethodNoTPM
}

func conversion(l persist.Layout) string {
	if _, err := os.Lstat(l.Converted()); err == nil {
		return ConversionDone
	}
	for _, old := range l.OldPlaces() {
		if entries, err := os.ReadDir(old); err == nil && len(entries) > 0 {
			return ConversionPending
		}
	}
	return ConversionNone
}

// DirChange is what MakeDirs did, or would do, to one directory.
type DirChange struct {
	Path string `json:"path"`
	What string `json:"what"` // "made", or the mode and owner that it had
}

// MakeDirs makes the directories of the layout, and gives those that are there their owners and
// modes. With dryRun it only says what it would do. Mount points of areas are left to the areas.
func MakeDirs(l persist.Layout, dryRun bool) (done []DirChange, err error) {
	for _, d := range l.Dirs() {
		if d.Area != "" {
			continue
		}
		change, err := makeDir(d, dryRun)
		if err != nil {
			return done, fmt.Errorf("directory %s: %w", d.Path, err)
		}
		if change != "" {
			done = append(done, DirChange{d.Path, change})
		}
	}
	return done, nil
}

// ErrNoDirectory: a file lies where the layout has a directory.
var ErrNoDirectory = errors.New("not a directory; move it away")

func makeDir(d persist.Dir, dryRun bool) (what string, err error) {
	wrong, err := wrongDir(d)
	if errors.Is(err, fs.ErrNotExist) {
		if d.Later {
			return "", nil
		}
		if dryRun {
			return "made", nil
		}
		if err := os.MkdirAll(d.Path, d.Mode); err != nil {
			return "", err
		}
		return "made", errors.Join(os.Lchown(d.Path, d.Owner.UID, d.Owner.GID), os.Chmod(d.Path, d.Mode))
	}
	if err != nil || wrong == "" || dryRun {
		return wrong, err
	}
	if d.AtLeast {
		info, err := os.Stat(d.Path)
		if err != nil {
			return "", err
		}
		return wrong, os.Chmod(d.Path, info.Mode()&^fs.ModeType|d.Mode)
	}
	return wrong, errors.Join(os.Lchown(d.Path, d.Owner.UID, d.Owner.GID), os.Chmod(d.Path, d.Mode))
}

// wrongDir says in which way a directory is not as the layout has it, "" for none.
func wrongDir(d persist.Dir) (string, error) {
	stat := unix.Lstat
	if d.AtLeast {
		stat = unix.Stat // the host's may be a link
	}
	var st unix.Stat_t
	if err := stat(d.Path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: d.Path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", ErrNoDirectory
	}
	mode := fs.FileMode(st.Mode & 0o7777)
	if d.AtLeast && mode&d.Mode == d.Mode || !d.AtLeast && mode == d.Mode && int(st.Uid) == d.Owner.UID && int(st.Gid) == d.Owner.GID {
		return "", nil
	}
	return fmt.Sprintf("mode %04o, owner %d:%d", mode, st.Uid, st.Gid), nil
}

// checkDirs lists the directories that are not as the layout has them.
func checkDirs(l persist.Layout) (wrong []string, err error) {
	for _, d := range l.Dirs() {
		if d.Area != "" {
			continue
		}
		what, err := wrongDir(d)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, ErrNoDirectory):
			wrong = append(wrong, d.Path+": "+err.Error())
		case err != nil:
			return wrong, err
		case what != "":
			wrong = append(wrong, fmt.Sprintf("%s: %s, not %04o, %d:%d", d.Path, what, d.Mode, d.Owner.UID, d.Owner.GID))
		}
	}
	return wrong, nil
}
