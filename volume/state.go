package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"layervault/crypt"
	"layervault/crypt/luks2"
	"layervault/persist"
)

// The states of a volume.
const (
	StateReady      = "ready"      // not mounted, and its key is available
	StateMounted    = "mounted"    // open, by docker or another user
	StateLocked     = "locked"     // it cannot be opened here, or its tier's key is not available; see Reason
	StateDamaged    = "damaged"    // its record cannot be read
	StateSuperseded = "superseded" // a later generation is the volume
)

// keyPatience bounds how long InspectAll waits for one tier's key: the key service may be slow,
// and the other volumes are to be listed anyway.
const keyPatience = 5 * time.Second

// Status is the state of a volume.
type Status struct {
	Volume
	State  string
	Reason string
	Size   int64    // bytes of an image's device; 0 where there is no bound
	Disk   int64    // bytes on the disk; 0 for a volume on a disk of device.json
	Docker []string // ids of docker's mounts
	Dir    string   // docker's mount point, "" when there is none
	Host   []string // mount points of people
}

// Inspect gives the state of one volume.
func (s *Store) Inspect(ctx context.Context, name string) (Status, error) {
	v, err := s.Get(ctx, name)
	if err != nil && v.Damage == nil {
		return Status{}, err
	}
	return s.status(ctx, v, map[persist.Tier]triedKey{}), nil
}

// InspectAll gives the state of every volume. A volume that cannot be inspected is listed with
// the reason.
func (s *Store) InspectAll(ctx context.Context) ([]Status, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	tiers := map[persist.Tier]triedKey{}
	all := make([]Status, 0, len(vs))
	for _, v := range vs {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		all = append(all, s.status(ctx, v, tiers))
	}
	return all, nil
}

func (s *Store) status(ctx context.Context, v Volume, tiers map[persist.Tier]triedKey) Status {
	st := Status{Volume: v, State: StateReady}
	if v.Damage != nil {
		st.State, st.Reason = StateDamaged, v.Damage.Error()
		return st
	}
	if err := s.fill(&st); err != nil {
		// Without device-mapper the state of the volume is unknown.
		st.State, st.Reason = StateLocked, err.Error()
		if errors.Is(err, ErrDamaged) || errors.Is(err, luks2.ErrDamaged) || errors.Is(err, luks2.ErrNotLUKS2) || errors.Is(err, fs.ErrNotExist) {
			st.State = StateDamaged
		}
		return st
	}
	switch {
	case st.State == StateMounted:
	case v.Superseded:
		st.State, st.Reason = StateSuperseded, "removed by layervault volume gc"
	default:
		s.statusByKey(ctx, &st, tiers)
	}
	return st
}

// statusByKey sets the state that depends on the key of the volume's tier.
func (s *Store) statusByKey(ctx context.Context, st *Status, tiers map[persist.Tier]triedKey) {
	v := st.Volume
	o := v.Options
	if err := s.resolveDisk(&o); err != nil {
		st.State, st.Reason = StateLocked, err.Error()
		return
	}
	if !v.ownKey() && !s.hasVault() {
		return
	}
	tier := keyTier(v.Options)
	if _, asked := tiers[tier]; !asked {
		tiers[tier] = s.tryKey(ctx, tier)
	}
	switch tried := tiers[tier]; {
	case tried.err != nil && v.ownKey():
		st.State, st.Reason = StateLocked, tried.err.Error()
	case tried.err != nil: // usable without the key
	default:
		if err := s.vouch(v, tried.keys); err != nil {
			st.State, st.Reason = StateDamaged, err.Error()
		}
	}
}

// triedKey is the result of opening a tier.
type triedKey struct {
	keys crypt.KeySource
	err  error
}

// fill asks file system and kernel.
func (s *Store) fill(st *Status) (err error) {
	u, err := s.uses(st.ID())
	if err != nil {
		return err
	}
	st.Docker = slices.Sorted(maps.Keys(u))
	if st.Dir, err = s.Mountpoint(st.Volume); err != nil {
		return err
	}
	if st.Host, err = s.HostMounts(st.Volume); err != nil {
		return err
	}
	if elsewhere, err := s.dockersElsewhere(st.Volume); err != nil {
		return err
	} else if st.Dir == "" && len(elsewhere) > 0 {
		st.Dir = elsewhere[0] // as it is seen here
	}
	if st.Dir != "" || len(st.Host) > 0 {
		st.State = StateMounted
	}
	b := s.backing(st.Volume)
	if st.Size, st.Disk, err = b.sizes(); err != nil {
		return err
	}
	opened, err := b.opened()
	if opened != 0 {
		st.State = StateMounted
	}
	return err
}

// tryKey tries to open a tier.
func (s *Store) tryKey(ctx context.Context, tier persist.Tier) triedKey {
	ctx, cancel := context.WithTimeoutCause(ctx, keyPatience, fmt.Errorf("no answer for the key of tier %s within %s", tier, keyPatience))
	defer cancel()
	keys, err := s.cfg.Keys(ctx, tier)
	return triedKey{keys, err}
}
