package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"layervault/persist"
)

// Volume is one volume as it lies on the disk.
type Volume struct {
	Record
	Path string // of the image or folder; of the record for a volume on a disk
	// Damage is the reason why the volume cannot be used: its record cannot be read, or
	// contradicts others. If the name is unknown, Record has only the ID and the tier.
	Damage error
	// Superseded: a later generation is the volume; this one is to be collected.
	Superseded bool
	// Listed: the list of its tier has the same record. Only the tier's key tells whether the
	// list is authentic.
	Listed bool

	pending bool // listed so
	next    string
	missing bool // only the list has it
}

// knownRecord remembers a record by the file it was read from: it never changes.
type knownRecord struct {
	file   identity
	record Record
}

// identity identifies a file. The inode number alone does not: it is reused, often for the
// next file, when a file is removed, and another process may have replaced the volume.
type identity struct {
	ino  uint64
	born unix.StatxTimestamp
}

// identify is the identity of the file at a path. ok is false where the file system
// keeps no times of birth.
func identify(path string) (id identity, ok bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}, false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return identity{st.Ino, st.Btime}, st.Mask&unix.STATX_BTIME != 0, nil
}

// catalog reads what volumes there are.
type catalog struct {
	layout persist.Layout

	mu    sync.Mutex
	known map[string]knownRecord // by path
	lists map[persist.Tier]knownList
}

// knownList remembers a list by the file it was read from.
type knownList struct {
	file identity
	list *list
}

func newCatalog(l persist.Layout) *catalog {
	return &catalog{layout: l, known: make(map[string]knownRecord), lists: make(map[persist.Tier]knownList)}
}

// List reads every volume of a disk, sorted by name and generation. It needs no key and no
// store, and changes nothing. The result is not authenticated; volumes that contradict the
// tiers' lists, or that are in two tiers, have Damage.
func List(ctx context.Context, l persist.Layout) ([]Volume, error) {
	return newCatalog(l).volumes(ctx)
}

// List is the function of that name for the store's disk.
func (s *Store) List(ctx context.Context) ([]Volume, error) { return s.catalog.volumes(ctx) }

func (c *catalog) volumes(ctx context.Context) ([]Volume, error) {
	var all []Volume
	for _, k := range kinds {
		vs, err := c.readDir(ctx, k)
		if err != nil {
			return nil, err
		}
		all = append(all, vs...)
	}
	all = judge(all, c.layout, map[persist.Tier]*list{persist.Vault: c.list(persist.Vault), persist.Unsealed: c.list(persist.Unsealed)})
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

// readDir reads the volumes of one kind.
func (c *catalog) readDir(ctx context.Context, k kind) ([]Volume, error) {
	dir := folderOf(k, c.layout)
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
		id, err := ParseID(strings.TrimSuffix(e.Name(), recordSuffix))
		if err != nil {
			continue // not a volume: EVE keeps files of other formats here
		}
		v.Record, err = c.record(v.Path, k)
		if errors.Is(err, fs.ErrNotExist) {
			if _, gone := os.Lstat(v.Path); gone != nil {
				continue // removed since the directory was read
			}
		}
		if err == nil && (v.ID() != id || v.Options.Tier != k.tier()) {
			err = fmt.Errorf("%w: record names %s in tier %s; move the file back there", ErrDamaged, v.ID(), v.Options.Tier)
		}
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			v.Damage = fmt.Errorf("volume %s: %w", id, err)
			v.Record = Record{UUID: id.UUID, Generation: id.Generation, Options: Options{Tier: k.tier()}}
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// record reads the record of the volume of a kind at a path.
func (c *catalog) record(path string, k kind) (Record, error) {
	file, unique, err := identify(path)
	if err != nil {
		return Record{}, err
	}
	c.mu.Lock()
	known, ok := c.known[path]
	c.mu.Unlock()
	if ok && unique && known.file == file {
		return known.record, nil
	}
	var r Record
	if name := k.recordFile(path); name != "" {
		r, err = readRecordFile(name)
	} else {
		r, err = readImageRecord(path)
	}
	if err != nil {
		return Record{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[path] = knownRecord{file, r}
	return r, nil
}

// forget drops the record of a removed volume.
func (c *catalog) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, path)
}

func readRecordFile(path string) (Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := recordFormat.Read(f)
	if err != nil {
		return Record{}, err
	}
	return decodeFile(data)
}
