package volume

import (
	"context"
	"testing"
	"time"

	"layervault/persist"
)

// TestKinds: the options of a volume tell where it lies and whose key vouches for it.
func TestKinds(t *testing.T) {
	l := persist.Layout{Root: "/p"}
	id := ID{"11111111-2222-4333-8444-555555555555", 3}
	const uuid = "11111111-2222-4333-8444-555555555555"
	for _, tt := range []struct {
		o                         Options
		place, path, record, file string
		key                       persist.Tier
		image                     bool
	}{
		{Options{Tier: persist.Vault}, "vault", "/p/vault/volumes/" + uuid + "#3", "", "vault/" + uuid + "#3", persist.Vault, true},
		{Options{Tier: persist.Unsealed}, "unsealed-vault", "/p/unsealed-vault/volumes/" + uuid + "#3", "", "unsealed-vault/" + uuid + "#3", persist.Unsealed, true},
		{Options{Tier: persist.Clear}, "clear", "/p/clear/volumes/" + uuid + "#3", "/p/clear/volumes/" + uuid + "#3/volume.json", "clear/" + uuid + "#3", persist.Vault, false},
		{Options{Disk: "d"}, "disk", l.VolumeState() + "/on-disks/" + uuid + "#3.json", l.VolumeState() + "/on-disks/" + uuid + "#3.json", "disk/" + uuid + "#3", persist.Vault, false},
	} {
		e := entry{UUID: id.UUID, Generation: id.Generation, Options: tt.o}
		v := Volume{Record: e.record(), Path: e.path(l)}
		if v.Path != tt.path || v.recordFile() != tt.record {
			t.Errorf("%+v: at %s, with the record %q", tt.o, v.Path, v.recordFile())
		}
		if v.where() != tt.place || target(v.where(), v.ID()) != tt.file {
			t.Errorf("%+v: in place %s", tt.o, v.where())
		}
		if v.KeyTier() != tt.key || v.IsImage() != tt.image || v.ownKey() != tt.image || v.bare() == tt.image {
			t.Errorf("%+v: key of %s, image %t", tt.o, v.KeyTier(), v.IsImage())
		}
		if v.MAC = "x"; v.bare() {
			t.Errorf("%+v: a record with authentication counts as bare", tt.o)
		}
	}
	// What a record that cannot be read leaves: the place that it was found in.
	for _, k := range kinds {
		if got := kindOf(Options{Tier: k.tier()}); got != k {
			t.Errorf("in %q: %T, want %T", k.tier(), got, k)
		}
	}
}

// TestFit: a volume that moves loses the options that mean nothing in its new place.
func TestFit(t *testing.T) {
	image := Options{Size: 1 << 30, Tier: persist.Vault, Persistence: Permanent, Cipher: "aes-xts-plain64", Sector: 512, MountOpts: "noatime"}
	onDisk := Options{Disk: "d", Persistence: Permanent, Platform: "app"}
	for _, tt := range []struct{ have, change, want Options }{
		{image, Options{}, image},
		{image, Options{Tier: persist.Clear}, Options{Tier: persist.Clear, Persistence: Permanent}},
		{image, Options{Disk: "d", Platform: "app"}, onDisk},
		{image, Options{Tier: persist.Unsealed, Size: 2 << 30}, Options{Size: 2 << 30, Tier: persist.Unsealed, Persistence: Permanent, Cipher: "aes-xts-plain64", Sector: 512, MountOpts: "noatime"}},
		{onDisk, Options{Disk: "e"}, Options{Disk: "e", Persistence: Permanent, Platform: "app"}},
		{onDisk, Options{Tier: persist.Vault}, Options{Tier: persist.Vault, Persistence: Permanent}},
		{onDisk, Options{Tier: persist.Clear}, Options{Tier: persist.Clear, Persistence: Permanent}},
	} {
		got := tt.have.with(tt.change)
		if got != tt.want {
			t.Errorf("%+v with %+v: %+v", tt.have, tt.change, got)
		}
		request := Request{Options: got}
		if err := request.check(); err != nil {
			t.Errorf("%+v: %v", got, err)
		}
	}
}

// lookedAt is an image whose device somebody opens to look, for the next few times it is asked.
type lookedAt struct {
	Device
	left *int
}

func (d lookedAt) Opened() (uint64, error) {
	if *d.left > 0 {
		*d.left--
		return 1, nil
	}
	return 0, nil
}

// TestLookedAt: a device that is open for a moment keeps no volume from being removed.
func TestLookedAt(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx      context.Context
		open     int // times that the device is found open
		patience time.Duration
		used     bool
	}{
		{t.Context(), 0, 0, false}, {t.Context(), 1, 0, true}, {t.Context(), 3, settleFor, false}, {t.Context(), 1 << 20, 50 * time.Millisecond, true},
		{gone, 2, settleFor, true}, // nobody waits for the answer
	} {
		left := tt.open
		s := &Store{cfg: Config{Devices: func(Image) Device { return lookedAt{left: &left} }}}
		used, err := s.settled(tt.ctx, Volume{Record: Record{Options: Options{Tier: persist.Vault}}}, tt.patience)
		if err != nil || (used != "") != tt.used {
			t.Errorf("open %d times, patience %s: %q, %v", tt.open, tt.patience, used, err)
		}
	}
}
