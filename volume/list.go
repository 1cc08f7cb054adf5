package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
)

// entry is one generation of a volume in a list: a copy of its record, and its state.
type entry struct {
	Name       string    `json:"name"`
	UUID       string    `json:"uuid"`
	Generation int64     `json:"generation"`
	Local      int64     `json:"local,omitempty"`
	Created    time.Time `json:"created"`
	Options    Options   `json:"options"`
	// Pending: the volume is being made or removed, so it may be missing on the disk.
	Pending bool `json:"pending,omitempty"`
	// Next is the generation in another tier that supersedes this one once it exists.
	Next string `json:"next,omitempty"`
}

func entryOf(r Record) entry {
	return entry{Name: r.Name, UUID: r.UUID, Generation: r.Generation, Local: r.Local, Created: r.Created, Options: r.Options}
}

func (e entry) id() ID { return ID{e.UUID, e.Generation} }

func (e entry) record() Record {
	return Record{Version: recordVersion, Name: e.Name, UUID: e.UUID, Generation: e.Generation, Local: e.Local, Created: e.Created, Options: e.Options}
}

// says reports whether the entry has the same record.
func (e entry) says(r Record) bool {
	return e.Name == r.Name && e.id() == r.ID() && e.Local == r.Local && e.Created.Equal(r.Created) && e.Options == r.Options
}

// listVersion is the version of lists that this code writes, the first.
const listVersion = 1

// listKind is the kind of a list in its authentication.
const listKind = "volumes"

// listFormat is the format of a list. An entry has about 300 bytes, or 700 with the longest
// names, so a list has room for some tens of thousands of volumes.
var listFormat = durable.Format{Oldest: listVersion, Newest: listVersion, MaxSize: 16 << 20}

// list is the list of a tier's volumes. A list that was not authenticated with the tier's key
// may forbid the use of a volume, and never allows it. See Store.authenticList.
type list struct {
	Version int          `json:"version"`
	Tier    persist.Tier `json:"tier"`
	Volumes []entry      `json:"volumes"`
	MAC     string       `json:"mac,omitempty"`

	damage error // the reason why it cannot be read

	mu    sync.Mutex
	known bool // known to be authentic
}

// keyTier is the tier whose key authenticates a volume: a volume of the clear tier, or on a
// disk, has no key of its own.
func keyTier(o Options) persist.Tier {
	tier, _ := kindOf(o).keyTier()
	return tier
}

// listTiers are the tiers that have a list.
var listTiers = []persist.Tier{persist.Vault, persist.Unsealed}

// placeDisk is the place of every volume that lies on a disk.
const placeDisk = "disk"

// where names the place that a volume lies in.
func (v Volume) where() string { return where(v.Options) }

func where(o Options) string {
	if tier := kindOf(o).tier(); tier != "" {
		return string(tier)
	}
	return placeDisk
}

// target names a generation at a place, also in entry.Next.
func target(where string, id ID) string { return where + "/" + id.String() }

// find is the entry of one generation at one place, nil where there is none.
func (l *list) find(place string, id ID) *entry {
	if l == nil {
		return nil
	}
	for i := range l.Volumes {
		if e := &l.Volumes[i]; e.id() == id && where(e.Options) == place {
			return e
		}
	}
	return nil
}

func decodeList(data []byte, tier persist.Tier) (*list, error) {
	l := &list{}
	if err := listFormat.Decode("list", data, l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	switch {
	case l.Tier != tier:
		return nil, fmt.Errorf("%w: list is of tier %q", ErrList, l.Tier)
	case !authentic.IsCode(l.MAC):
		return nil, fmt.Errorf("%w: no valid MAC", ErrList)
	}
	for _, e := range l.Volumes {
		if err := e.record().check(); err != nil {
			return nil, fmt.Errorf("%s: %w", e.id(), err)
		}
		if keyTier(e.Options) != tier {
			return nil, fmt.Errorf("%w: %s belongs to another tier", ErrList, e.id())
		}
	}
	return l, nil
}

// readList reads a tier's list; nil where there is none.
func readList(l persist.Layout, tier persist.Tier) (*list, error) {
	f, err := os.OpenFile(l.VolumeList(tier), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := listFormat.Read(f)
	if err != nil {
		return nil, err
	}
	return decodeList(data, tier)
}

// list reads a tier's present list; nil if there is none. A list that cannot be read has
// damage.
func (c *catalog) list(tier persist.Tier) *list {
	file, unique, err := identify(c.layout.VolumeList(tier))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c.mu.Lock()
	known, ok := c.lists[tier]
	c.mu.Unlock()
	if err == nil && ok && unique && known.file == file {
		return known.list
	}
	l, err := readList(c.layout, tier)
	if err != nil {
		return &list{Tier: tier, damage: fmt.Errorf("read %s: %w", c.layout.VolumeList(tier), err)}
	}
	if l != nil {
		c.mu.Lock()
		c.lists[tier] = knownList{file, l}
		c.mu.Unlock()
	}
	return l
}

// seal authenticates a list as it is.
func (l *list) seal(keys authentic.Keys) ([]byte, error) {
	slices.SortFunc(l.Volumes, func(a, b entry) int {
		return strings.Compare(target(where(a.Options), a.id()), target(where(b.Options), b.id()))
	})
	out := &list{Version: listVersion, Tier: l.Tier, Volumes: l.Volumes}
	if out.Volumes == nil {
		out.Volumes = []entry{}
	}
	if err := authentic.Seal(keys, listKind, out, &out.MAC); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(out, "", " ")
	return append(data, '\n'), err
}

// authentic is ErrForged for a list that was not written with the tier's key. The result is
// remembered.
func (l *list) authentic(keys authentic.Keys) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known {
		return nil
	}
	if err := l.check(keys); err != nil {
		return err
	}
	l.known = true
	return nil
}

func (l *list) check(keys authentic.Keys) error {
	bare := &list{Version: l.Version, Tier: l.Tier, Volumes: l.Volumes, MAC: l.MAC}
	return authentic.Verify(keys, listKind, bare, &bare.MAC)
}

// write replaces a tier's list. The list is locked.
func (l *list) write(layout persist.Layout, keys authentic.Keys) error {
	data, err := l.seal(keys)
	if err != nil {
		return err
	}
	name := layout.VolumeList(l.Tier)
	return durable.Replace(name, "."+filepath.Base(name)+".tmp", data)
}

// authenticList is a tier's list, authenticated with its key; nil if there is none.
func (s *Store) authenticList(tier persist.Tier, keys authentic.Keys) (*list, error) {
	l := s.catalog.list(tier)
	if l == nil {
		return nil, nil
	}
	if l.damage != nil {
		return nil, l.damage
	}
	err := l.authentic(keys)
	if errors.Is(err, ErrForged) {
		err = fmt.Errorf("%w: %s: %w", ErrList, s.cfg.Layout.VolumeList(tier), err)
	}
	return l, err
}

// relist changes a tier's list under its lock, and makes a missing list.
func (s *Store) relist(ctx context.Context, tier persist.Tier, keys authentic.Keys, change func(l *list) error) error {
	unlock, err := s.lockByte(ctx, listLocks[tier], "list of "+string(tier))
	if err != nil {
		return err
	}
	defer unlock()
	have, err := s.authenticList(tier, keys)
	if err != nil {
		return err
	}
	next := &list{Tier: tier}
	if have != nil {
		next.Volumes = slices.Clone(have.Volumes)
	}
	if err := change(next); err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Layout.Tier(tier), 0o700); err != nil {
		return err
	}
	if err := next.write(s.cfg.Layout, keys); err != nil {
		return fmt.Errorf("write the list of volumes of %s: %w", tier, err)
	}
	return s.step("listed")
}

// listLocks are the bytes of the lock file for changing a tier's list; see lockName for
// the others.
var listLocks = map[persist.Tier]int64{persist.Vault: 1, persist.Unsealed: 2}

// put adds a generation, or replaces its entry.
func (l *list) put(e entry) {
	l.drop(where(e.Options), e.id())
	l.Volumes = append(l.Volumes, e)
}

// drop removes the entry of a generation.
func (l *list) drop(place string, id ID) {
	l.Volumes = slices.DeleteFunc(l.Volumes, func(e entry) bool { return e.id() == id && where(e.Options) == place })
}
