package snapshotter_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"layervault/layer"
	"layervault/snapshotter"
	"layervault/snapshotter/snapshottertest"
)

// database is the file that an attacker, or a crash, may have left in any state.
func (b *bench) database() string { return filepath.Join(b.dir, "snapshots", "metadata.db") }

// offline ends the process, changes the database, and starts another process.
func (b *bench) offline(change func(ours, all *bolt.Bucket) error) {
	b.Helper()
	b.ok(b.Stop())
	db, err := bolt.Open(b.database(), 0o600, nil)
	b.ok(err)
	b.ok(errors.Join(db.Update(func(tx *bolt.Tx) error {
		return change(tx.Bucket([]byte("layervault")), tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")))
	}), db.Close()))
	b.start()
}

// number is the database's own for a snapshot, as the buckets of this package have it.
func number(all *bolt.Bucket, key string) []byte {
	raw := all.Bucket([]byte(key)).Get([]byte("id"))
	return []byte{'0' + raw[0]} // the tests make fewer than ten
}

// A snapshot whose layer was not made before a crash is no snapshot, and can be removed.
func TestCrashInPrepare(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.prepare("key", "base")
	id := b.layerOf("key").ID
	b.ok(b.Store.Remove(b.ctx, id))
	b.reboot()
	_, err := b.Mounts(b.ctx, "key")
	b.wants(err, snapshotter.ErrLost)
	b.wants(err, errdefs.ErrFailedPrecondition)
	_, err = b.Usage(b.ctx, "key")
	b.wants(err, snapshotter.ErrLost)
	b.wants(b.Commit(b.ctx, "name", "key"), snapshotter.ErrLost)
	b.ok(b.Remove(b.ctx, "key"))
	b.ok(b.Remove(b.ctx, "base"))
}

// A commit that reached the record and not the database: nobody can write to the layer any
// more, and the commit can be repeated, by another name too.
func TestCrashInCommit(t *testing.T) {
	for _, name := range []string{"name", "another name"} {
		b := newBench(t)
		b.commit("base", "")
		b.at(b.prepare("key", "base"), func(dir string) { b.write(filepath.Join(dir, "file"), "") })
		b.ok(b.Store.Commit(b.ctx, b.layerOf("key").ID, "name", ""))
		b.reboot()
		_, err := b.Mounts(b.ctx, "key")
		b.wants(err, snapshotter.ErrUnfinished)
		_, err = b.Prepare(b.ctx, "child", "key")
		b.wants(err, errdefs.ErrInvalidArgument)
		_, err = b.View(b.ctx, "child", "name")
		b.wants(err, errdefs.ErrNotFound)
		b.ok(b.Commit(b.ctx, name, "key"))
		b.shows(b.prepare("child", name), "base file")
	}
}

// What a commit left that was interrupted can be removed, with all that it stands on; unless the
// database knew nothing of the commit, and so is older than the record.
func TestCrashInCommitRemoved(t *testing.T) {
	for _, knew := range []bool{true, false} {
		b := newBench(t)
		b.commit("base", "")
		b.prepare("key", "base")
		id := b.layerOf("key").ID
		b.ok(b.Store.Commit(b.ctx, id, "name", ""))
		b.offline(func(ours, _ *bolt.Bucket) error {
			committing, err := ours.CreateBucketIfNotExists([]byte("committing"))
			if err == nil && knew {
				err = committing.Put([]byte(id), []byte("name"))
			}
			return err
		})
		b.ok(b.Remove(b.ctx, "key"))
		b.ok(b.Remove(b.ctx, "base"))
		err := b.Snapshotter.Cleanup(b.ctx)
		if left := b.Store.Exists(id); left == knew || (err == nil) != knew {
			t.Errorf("the database knew %t: layer is there %t, %v", knew, left, err)
		}
	}
}

// A removal that reached the database is finished by the next process.
func TestCrashInRemove(t *testing.T) {
	b := newBench(t)
	b.prepare("key", "")
	id := b.layerOf("key").ID
	b.offline(func(ours, all *bolt.Bucket) error {
		n := number(all, "key")
		removed, err := ours.CreateBucketIfNotExists([]byte("removed"))
		return errors.Join(err, removed.Put([]byte(id), nil), ours.Bucket([]byte("layers")).Delete(n), all.DeleteBucket([]byte("key")))
	})
	b.eventually("the layer is there", func() bool { return !b.Store.Exists(id) })
}

// A lost database loses names, never layers.
func TestDatabaseLost(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.prepare("key", "base")
	before, err := b.Store.IDs()
	b.ok(err)
	b.ok(b.Stop())
	b.ok(os.Remove(b.database()))
	b.start()
	if _, err := b.Stat(b.ctx, "base"); !errdefs.IsNotFound(err) {
		t.Errorf("stat: %v", err)
	}
	b.commit("base", "") // its numbers begin anew
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	after, err := b.Store.IDs()
	b.ok(err)
	for _, id := range before {
		if !slices.Contains(after, id) {
			t.Errorf("layer %s is gone", id)
		}
	}
}

// What an attacker writes into the database decides nothing.
func TestForgedDatabase(t *testing.T) {
	layers := []byte("layers")
	for name, c := range map[string]struct {
		change func(ours, all *bolt.Bucket) error
		key    string // of the view or the active snapshot that is asked for
		parent string // to prepare on; "" for none
		want   error
	}{
		"layers exchanged": {func(ours, all *bolt.Bucket) error {
			l := ours.Bucket(layers)
			a, b := slices.Clone(l.Get(number(all, "a"))), slices.Clone(l.Get(number(all, "b")))
			return errors.Join(l.Put(number(all, "a"), b), l.Put(number(all, "b"), a))
		}, "", "a", snapshotter.ErrForged},
		"committed layer as a container's": {func(ours, all *bolt.Bucket) error {
			return ours.Bucket(layers).Put(number(all, "key"), ours.Bucket(layers).Get(number(all, "a")))
		}, "key", "", snapshotter.ErrUnfinished},
		"another view's layer": {func(ours, all *bolt.Bucket) error {
			return ours.Bucket(layers).Put(number(all, "view"), ours.Bucket(layers).Get(number(all, "key")))
		}, "view", "", snapshotter.ErrForged},
		"view of another snapshot": {func(_, all *bolt.Bucket) error {
			return all.Bucket([]byte("view")).Put([]byte("parent"), []byte("b"))
		}, "view", "", snapshotter.ErrForged},
		"container on another snapshot": {func(_, all *bolt.Bucket) error {
			return all.Bucket([]byte("key")).Put([]byte("parent"), []byte("b"))
		}, "key", "", snapshotter.ErrForged},
		"view made writable": {func(_, all *bolt.Bucket) error {
			return all.Bucket([]byte("view")).Put([]byte("kind"), []byte{2})
		}, "view", "", snapshotter.ErrForged},
		"no layer": {func(ours, all *bolt.Bucket) error {
			return ours.Bucket(layers).Delete(number(all, "key"))
		}, "key", "", snapshotter.ErrLost},
		"a path": {func(ours, all *bolt.Bucket) error {
			return ours.Bucket(layers).Put(number(all, "key"), []byte("../../etc"))
		}, "key", "", layer.ErrBadID},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.commit("a", "")
			b.commit("b", "")
			b.prepare("key", "a")
			_, err := b.View(b.ctx, "view", "a")
			b.ok(err)
			b.offline(c.change)
			if c.key != "" {
				_, err = b.Mounts(b.ctx, c.key)
			} else {
				_, err = b.Prepare(b.ctx, "new", c.parent)
			}
			b.wants(err, c.want)
			// And a removal destroys nothing but what it names.
			keep := []string{b.layerOf("a").ID, b.layerOf("b").ID}
			if c.key != "" {
				_ = b.Remove(context.Background(), c.key) // refused, or not
			}
			b.ok(b.Snapshotter.Cleanup(b.ctx))
			for _, id := range keep {
				if !b.Store.Exists(id) {
					t.Errorf("layer %s was removed", id)
				}
			}
		})
	}
}

// A file that is no database refuses the start, and is not replaced.
func TestDatabaseDamaged(t *testing.T) {
	b := newBench(t)
	b.commit("base", "")
	b.ok(b.Stop())
	good, err := os.ReadFile(b.database())
	b.ok(err)
	for name, bad := range map[string][]byte{"text": []byte("no database"), "zeros": make([]byte, 1<<16)} {
		b.ok(os.WriteFile(b.database(), bad, 0o600))
		if s, err := snapshottertest.Start(b.ctx, b.dir, slog.New(slog.DiscardHandler), images); err == nil {
			t.Errorf("%s: started", name)
			b.ok(s.Stop())
		}
		if now, err := os.ReadFile(b.database()); err != nil || string(now) != string(bad) {
			t.Errorf("%s: the file was changed (%v)", name, err)
		}
	}
	b.ok(os.WriteFile(b.database(), good, 0o600))
	b.start()
	b.prepare("key", "base")
}
