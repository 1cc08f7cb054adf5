package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"layervault/internal/authentic"
	"layervault/internal/durable"
	"layervault/persist"
)

// KeyedRecord is a file that the key of a tier authenticates, for a rotation of that key.
// The records in images are not among them: the tier's list has those.
type KeyedRecord struct {
	Title string // names it in messages
	sealed
}

// sealed is how a kind of file is authenticated.
type sealed interface {
	// check is ErrForged unless the file was written with the key.
	check(key authentic.Keys) error
	// write writes it anew.
	write(key authentic.Keys) error
}

// Check is ErrForged when the record was not written with a key.
func (k KeyedRecord) Check(key authentic.Keys) error { return k.check(key) }

// Rekey makes a record of the key old one of next. It is one rename, and may be repeated.
func (k KeyedRecord) Rekey(old, next authentic.Keys) error {
	switch err := k.check(next); {
	case err == nil:
		return nil
	case !errors.Is(err, ErrForged):
		return err
	}
	if err := k.check(old); err != nil {
		return err
	}
	return k.write(next)
}

// KeyedRecords lists the files that the key of a tier authenticates. Those without
// authentication, or that cannot be read, depend on no key and are left out. Nobody may
// change volumes meanwhile.
func KeyedRecords(ctx context.Context, l persist.Layout, tier persist.Tier) ([]KeyedRecord, error) {
	var all []KeyedRecord
	c := newCatalog(l)
	if list := c.list(tier); list != nil && list.damage == nil {
		all = append(all, KeyedRecord{"list of volumes", keyedList{list, l}})
	}
	if tier != persist.Vault {
		return all, nil
	}
	vs, err := c.volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range vs {
		if v.missing || v.recordFile() == "" {
			continue
		}
		// A damaged volume has the record of the list here, not that of its file.
		r, err := c.record(v.Path, v.kind())
		if err != nil || r.MAC == "" {
			continue
		}
		v.Record = r
		all = append(all, KeyedRecord{"record of volume " + v.ID().String(), keyedVolume{v}})
	}
	r, err := readRevisions(l)
	if err == nil && r.Version == revisionsVersion {
		all = append(all, KeyedRecord{"revision of the host", keyedRevisions{r, l}})
	}
	return all, nil
}

type keyedList struct {
	*list
	layout persist.Layout
}

func (k keyedList) check(key authentic.Keys) error {
	now, err := readList(k.layout, k.Tier)
	if err != nil || now == nil {
		return err
	}
	return now.check(key)
}

func (k keyedList) write(key authentic.Keys) error { return k.list.write(k.layout, key) }

type keyedVolume struct{ v Volume }

func (k keyedVolume) check(key authentic.Keys) error {
	r, err := readRecordFile(k.v.recordFile())
	if err != nil {
		return err
	}
	return r.authentic(key)
}

func (k keyedVolume) write(key authentic.Keys) (err error) {
	if k.v.Record, err = k.v.seal(key); err != nil {
		return err
	}
	return writeRecord(k.v)
}

type keyedRevisions struct {
	r      Revisions
	layout persist.Layout
}

func (k keyedRevisions) check(key authentic.Keys) error {
	r, err := readRevisions(k.layout)
	if err != nil {
		return err
	}
	return r.authentic(key)
}

func (k keyedRevisions) write(key authentic.Keys) error {
	r, err := k.r.seal(key)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(k.layout.VolumeState())
	if err != nil {
		return err
	}
	return errors.Join(r.writeIn(root), root.Close())
}

// readRevisions reads which revision the host runs without a store.
func readRevisions(l persist.Layout) (Revisions, error) {
	data, err := os.ReadFile(filepath.Join(l.VolumeState(), revisionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Revisions{Version: oldRevisionsVersion, Known: []KnownRevision{}}, nil
	}
	if err != nil {
		return Revisions{}, fmt.Errorf("read the host's revision: %w", err)
	}
	return decodeRevisions(data)
}

// writeIn writes which revision the host runs into the folder of the store's state.
func (r Revisions) writeIn(state *os.Root) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	return durable.WriteFile(state, "."+revisionFile+".tmp", revisionFile, data, 0o600)
}
