package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt/luks2"
	"layervault/persist"
)

// recordFile is the record of a volume of the clear tier, in its folder.
const recordFile = "volume.json"

// Volume is one volume as it lies on the disk.
type Volume struct {
	Record
	Path string // of the image or folder; of the record for a volume on a disk
	// Damage is why the record cannot be read; what Record says is then only the ID, and
	// the tier it lies in.
	Damage error
	// Superseded: a later generation is the volume; this one is to be collected.
	Superseded bool
}

// IsImage says whether the volume is an encrypted image of its own.
func (v Volume) IsImage() bool { return v.Options.Disk == "" && v.Options.Tier != persist.Clear }

// knownRecord remembers a record by the file it was read from: it never changes.
type knownRecord struct {
	ino    uint64
	record Record
}

// List reads every volume, sorted by name and generation. It needs no key.
func (s *Store) List(ctx context.Context) ([]Volume, error) {
	var all []Volume
	for _, tier := range allTiers {
		vs, err := s.readDir(ctx, s.cfg.Layout.Volumes(tier), tier)
		if err != nil {
			return nil, err
		}
		all = append(all, vs...)
	}
	vs, err := s.readDir(ctx, filepath.Join(s.cfg.Layout.VolumeState(), onDisksDir), "")
	if err != nil {
		return nil, err
	}
	all = append(all, vs...)
	newest := map[string]int64{}
	for _, v := range all {
		if v.Damage == nil {
			newest[v.UUID] = max(newest[v.UUID], v.Generation)
		}
	}
	for i, v := range all {
		all[i].Superseded = v.Damage == nil && v.Generation < newest[v.UUID]
	}
	slices.SortFunc(all, func(a, b Volume) int {
		if by := strings.Compare(a.Name, b.Name); by != 0 {
			return by
		}
		if by := strings.Compare(a.UUID, b.UUID); by != 0 {
			return by
		}
		return int(min(max(a.Generation-b.Generation, -1), 1))
	})
	return all, nil
}

// readDir reads the volumes of one folder. tier is "" for the records of volumes on disks.
func (s *Store) readDir(ctx context.Context, dir string, tier persist.Tier) ([]Volume, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	var vs []Volume
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		v := Volume{Path: filepath.Join(dir, e.Name())}
		id, err := ParseID(strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			continue // not a volume: EVE keeps files of other formats here
		}
		v.Record, err = s.record(v.Path, tier)
		if errors.Is(err, fs.ErrNotExist) {
			if _, gone := os.Lstat(v.Path); gone != nil {
				continue // removed since the directory was read
			}
		}
		if err == nil && (v.ID() != id || v.Options.Tier != tier) {
			err = fmt.Errorf("%w: it says that it is %s of tier %s: give it its name and place again", ErrDamaged, v.ID(), v.Options.Tier)
		}
		if err != nil {
			v.Damage = fmt.Errorf("volume %s: %w", id, err)
			v.Record = Record{UUID: id.UUID, Generation: id.Generation, Options: Options{Tier: tier}}
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// record reads the record of the volume at a path.
func (s *Store) record(path string, tier persist.Tier) (Record, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Record{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	s.mu.Lock()
	known, ok := s.known[path]
	s.mu.Unlock()
	if ok && known.ino == st.Ino {
		return known.record, nil
	}
	var r Record
	var err error
	switch tier {
	case "":
		r, err = readRecordFile(path)
	case persist.Clear:
		r, err = readRecordFile(filepath.Join(path, recordFile))
	default:
		r, err = readImageRecord(path)
	}
	if err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[path] = knownRecord{st.Ino, r}
	return r, nil
}

func readRecordFile(path string) (Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRecordSize))
	if err != nil {
		return Record{}, err
	}
	return decodeFile(data)
}

func readImageRecord(path string) (Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = f.Close() }()
	h, err := luks2.Read(f)
	if err != nil {
		return Record{}, err
	}
	tokens, err := h.Tokens()
	if err != nil {
		return Record{}, err
	}
	for _, t := range tokens {
		if t.Type == TokenType {
			return decodeToken(t.JSON)
		}
	}
	return Record{}, fmt.Errorf("%w: its header has no token of type %s", ErrDamaged, TokenType)
}

// Get finds a volume by its name, or by its ID.
func (s *Store) Get(ctx context.Context, name string) (Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return Volume{}, err
	}
	var found *Volume
	for _, v := range vs {
		if v.ID().String() == name {
			return v, v.Damage
		}
		if v.Name != name || v.Damage != nil || v.Superseded {
			continue
		}
		if found != nil {
			return Volume{}, fmt.Errorf("%w: %s is %s and %s: move one away", ErrAmbiguous, name, found.Path, v.Path)
		}
		found = &v
	}
	if found == nil {
		return Volume{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return *found, nil
}

// lockVolume finds a volume and locks it; it is looked for again under the lock.
func (s *Store) lockVolume(ctx context.Context, name string) (v Volume, unlock func(), err error) {
	if v, err = s.Get(ctx, name); err != nil {
		return Volume{}, nil, err
	}
	if unlock, err = s.lockName(ctx, v.Name); err != nil {
		return Volume{}, nil, err
	}
	if v, err = s.Get(ctx, name); err != nil {
		unlock()
		return Volume{}, nil, err
	}
	return v, unlock, nil
}

// generations lists the volumes of a UUID, the latest first.
func (s *Store) generations(ctx context.Context, id string) ([]Volume, error) {
	vs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	vs = slices.DeleteFunc(vs, func(v Volume) bool { return v.UUID != id })
	slices.SortFunc(vs, func(a, b Volume) int { return int(min(max(b.Generation-a.Generation, -1), 1)) })
	return vs, nil
}
