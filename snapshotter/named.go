package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ErrRunning: containerd runs, and has its database open.
var ErrRunning = errors.New("containerd runs and has its database open")

// snapshotLabel begins the labels by which content, images and others name a snapshot.
const snapshotLabel = "containerd.io/gc.ref.snapshot."

// Names are the snapshots of one snapshotter that containerd's database names.
type Names struct {
	// names are those it lists, as the snapshotter knows them: "namespace/number/key".
	names map[string]struct{}
	// keys are those that a container, a lease or a label names: by namespace and key.
	keys map[[2]string]struct{}
}

// ReadNames reads containerd's database (core/metadata/buckets.go): the file meta.db of a
// containerd that does not run. Its service cannot be asked: it leaves out snapshots that the
// snapshotter does not list, and those are looked for. Errors: ErrRunning, fs.ErrNotExist.
func ReadNames(path, snapshotter string) (_ *Names, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("containerd's database: %w", err)
	}
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, ErrRunning
	}
	if err != nil {
		return nil, fmt.Errorf("containerd's database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	n := &Names{names: map[string]struct{}{}, keys: map[[2]string]struct{}{}}
	err = db.View(func(tx *bolt.Tx) error {
		each(tx.Bucket([]byte("v1")), func(namespace string, b *bolt.Bucket) { n.read(namespace, b, snapshotter) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("containerd's database: %w", err)
	}
	return n, nil
}

// Named says whether the database names a snapshot.
func (n *Names) Named(snapshot string) Named {
	if _, ok := n.names[snapshot]; ok {
		return IsNamed
	}
	namespace, rest, _ := strings.Cut(snapshot, "/")
	_, key, ok := strings.Cut(rest, "/")
	if !ok {
		return Unsaid // made by another program
	}
	if _, ok := n.keys[[2]string{namespace, key}]; ok {
		return IsNamed
	}
	return NotNamed
}

// read takes up one namespace.
func (n *Names) read(namespace string, b *bolt.Bucket, snapshotter string) {
	add := func(key string) {
		if key != "" {
			n.keys[[2]string{namespace, key}] = struct{}{}
		}
	}
	each(at(b, "snapshots", snapshotter), func(_ string, s *bolt.Bucket) {
		if name := s.Get([]byte("name")); len(name) > 0 {
			n.names[string(name)] = struct{}{}
		}
		labelled(s, snapshotter, add)
	})
	each(at(b, "containers"), func(_ string, c *bolt.Bucket) {
		if string(c.Get([]byte("snapshotter"))) == snapshotter {
			add(string(c.Get([]byte("snapshotKey"))))
		}
		labelled(c, snapshotter, add)
	})
	each(at(b, "leases"), func(_ string, l *bolt.Bucket) {
		if held := at(l, "snapshots", snapshotter); held != nil {
			_ = held.ForEach(func(k, _ []byte) error { add(string(k)); return nil }) // fails by its function alone
		}
		labelled(l, snapshotter, add)
	})
	for _, kind := range [][]string{{"images"}, {"content", "blob"}} {
		each(at(b, kind...), func(_ string, one *bolt.Bucket) { labelled(one, snapshotter, add) })
	}
}

// labelled adds what the labels of an object name.
func labelled(b *bolt.Bucket, snapshotter string, add func(string)) {
	labels := at(b, "labels")
	if labels == nil {
		return
	}
	_ = labels.ForEach(func(k, v []byte) error { // fails by its function alone
		name, is := strings.CutPrefix(string(k), snapshotLabel)
		if of, _, _ := strings.Cut(name, "/"); is && of == snapshotter {
			add(string(v))
		}
		return nil
	})
}

// at is a bucket within others, nil if one is absent.
func at(b *bolt.Bucket, names ...string) *bolt.Bucket {
	for _, name := range names {
		if b == nil {
			return nil
		}
		b = b.Bucket([]byte(name))
	}
	return b
}

// each calls f for each bucket in a bucket.
func each(b *bolt.Bucket, f func(name string, b *bolt.Bucket)) {
	if b == nil {
		return
	}
	_ = b.ForEachBucket(func(k []byte) error { // fails by its function alone
		f(string(k), b.Bucket(k))
		return nil
	})
}
