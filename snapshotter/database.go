package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// databaseName is the file in Config.Dir.
const databaseName = "metadata.db"

// lockPatience is how long the lock of the database is waited for: that of a killed process
// goes at once.
const lockPatience = 3 * time.Second

// The buckets of this package in containerd's database.
var (
	bucketOurs       = []byte("layervault")
	bucketLayers     = []byte("layers")     // number of a snapshot -> id of its layer
	bucketCommitting = []byte("committing") // id of a layer -> name that it is about to get
	bucketRemoved    = []byte("removed")    // id of a layer to be erased -> key of its snapshot
)

// errDatabase: the database is not one of containerd's package storage, or is damaged.
var errDatabase = errors.New("snapshot database is damaged")

// database is the metadata of all snapshots. Nothing in it is authenticated.
type database struct{ meta *storage.MetaStore }

func openDatabase(ctx context.Context, dir string) (*database, error) {
	meta, err := storage.NewMetaStore(filepath.Join(dir, databaseName), func(o *bolt.Options) error {
		o.Timeout = lockPatience
		return nil
	})
	if err != nil {
		return nil, err
	}
	d := &database{meta}
	// A new one has no buckets yet, on which package storage's readers would fail.
	err = d.write(ctx, func(_ context.Context, t tables) error {
		_, err := t.tx.CreateBucketIfNotExists(bucketOurs)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *database) close() error { return d.meta.Close() }

// tables are the buckets of this package within one transaction.
type tables struct{ tx *bolt.Tx }

// bucket returns a bucket of ours, nil where it does not exist and the transaction only reads.
func (t tables) bucket(name []byte) (*bolt.Bucket, error) {
	ours := t.tx.Bucket(bucketOurs)
	if ours == nil {
		return nil, fmt.Errorf("%w: no bucket %s", errDatabase, bucketOurs)
	}
	if t.tx.Writable() {
		return ours.CreateBucketIfNotExists(name)
	}
	return ours.Bucket(name), nil
}

// get, put and remove are those of one entry; get of an absent one is "".
func (t tables) get(bucket []byte, key string) (string, error) {
	b, err := t.bucket(bucket)
	if err != nil || b == nil {
		return "", err
	}
	return string(b.Get([]byte(key))), nil
}

func (t tables) put(bucket []byte, key, value string) error {
	b, err := t.bucket(bucket)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), []byte(value))
}

func (t tables) remove(bucket []byte, key string) error {
	b, err := t.bucket(bucket)
	if err != nil {
		return err
	}
	return b.Delete([]byte(key))
}

// keys lists the keys of a bucket.
func (t tables) keys(bucket []byte) (keys []string, err error) {
	b, err := t.bucket(bucket)
	if err != nil || b == nil {
		return nil, err
	}
	return keys, b.ForEach(func(k, _ []byte) error {
		keys = append(keys, string(k))
		return nil
	})
}

// read runs f in a transaction that only reads. f must not wait for anything: a transaction
// that reads for long makes the file grow.
func (d *database) read(ctx context.Context, f func(context.Context, tables) error) error {
	return d.within(ctx, false, f)
}

// write runs f in the one transaction that writes, and makes it durable unless f fails.
func (d *database) write(ctx context.Context, f func(context.Context, tables) error) error {
	return d.within(ctx, true, f)
}

func (d *database) within(ctx context.Context, writable bool, f func(context.Context, tables) error) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, t, err := d.meta.TransactionContext(ctx, writable)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // f failed, or panicked: the lock of the database must not stay
			err = errors.Join(err, t.Rollback())
		}
	}()
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return fmt.Errorf("%w: transaction is a %T", errDatabase, t)
	}
	if err := f(ctx, tables{tx}); err != nil || !writable {
		return err
	}
	done = true
	return t.Commit()
}

// entry is what the database says of a snapshot.
type entry struct {
	number string // the database's own
	layer  string // "" for none
	info   snapshots.Info
	usage  snapshots.Usage
}

// entry reads a snapshot by its key. Error: errdefs.ErrNotFound.
func (t tables) entry(ctx context.Context, key string) (e entry, err error) {
	if e.number, e.info, e.usage, err = storage.GetInfo(ctx, key); err != nil {
		return entry{}, fmt.Errorf("snapshot %q: %w", key, err)
	}
	e.layer, err = t.get(bucketLayers, e.number)
	return e, err
}

// find is entry in a transaction of its own.
func (d *database) find(ctx context.Context, key string) (e entry, err error) {
	err = d.read(ctx, func(ctx context.Context, t tables) error {
		e, err = t.entry(ctx, key)
		return err
	})
	return e, err
}

// walk lists the snapshots that match filters. A database without any is empty.
func (d *database) walk(ctx context.Context, filters ...string) (infos []snapshots.Info, err error) {
	err = d.read(ctx, func(ctx context.Context, t tables) error {
		if t.tx.Bucket([]byte("v1")) == nil {
			return nil
		}
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			infos = append(infos, info)
			return nil
		}, filters...)
	})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return infos, err
}
