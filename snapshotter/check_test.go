package snapshotter_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"layervault/snapshotter"
)

// problems checks what is on the disk, as "kind name" and "!" if it can be mended.
func (b *bench) problems(named func(string) snapshotter.Named) (list []string) {
	b.Helper()
	entries, removed, err := snapshotter.Entries(b.ctx, filepath.Join(b.dir, "snapshots"))
	b.ok(err)
	records, err := b.Store.List(b.ctx)
	b.ok(err)
	for _, p := range snapshotter.Judge(entries, removed, records, named) {
		text := string(p.Kind) + " " + p.Snapshot
		if p.Mendable {
			text += "!"
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

// names makes an answer: these are named, and all others are not.
func names(list ...string) func(string) snapshotter.Named {
	return func(name string) snapshotter.Named {
		if slices.Contains(list, name) {
			return snapshotter.IsNamed
		}
		return snapshotter.NotNamed
	}
}

func unsaid(string) snapshotter.Named { return snapshotter.Unsaid }

func (b *bench) same(got []string, want ...string) {
	b.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		b.Error(diff)
	}
}

// A lost database is made again from the records, for what containerd names; what nothing names
// stays, until somebody wants it erased.
func TestMendLostDatabase(t *testing.T) {
	b := newBench(t)
	b.commitAs("n/1/base", "")
	b.commitAs("n/2/top", "n/1/base")
	b.prepare("n/3/container", "n/2/top")
	_, err := b.View(b.ctx, "n/4/view", "n/2/top")
	b.ok(err)
	b.commitAs("n/5/orphan", "")
	before, err := b.Usage(b.ctx, "n/2/top")
	b.ok(err)
	b.ok(b.Stop())
	b.ok(os.Remove(b.database()))
	b.start()
	named := names("n/1/base", "n/2/top", "n/3/container", "n/4/view")
	b.ok(b.Stop())
	b.startStore()
	b.same(b.problems(named), "unlisted n/1/base!", "unlisted n/2/top!", "unlisted n/3/container!", "unlisted n/4/view!", "unlisted n/5/orphan!")
	b.same(b.problems(unsaid), "unlisted n/1/base", "unlisted n/2/top", "unlisted n/3/container", "unlisted n/4/view", "unlisted n/5/orphan")
	b.restartStore()
	if mended, err := b.Mend(b.ctx, unsaid, true); err != nil || len(mended) > 0 {
		t.Errorf("without containerd's word: %v, %v", mended, err)
	}
	orphan := b.layerOf("n/5/orphan").ID
	mended, err := b.Mend(b.ctx, named, false)
	if err != nil || len(mended) != 4 {
		t.Errorf("mended %v: %v", mended, err)
	}
	if again, err := b.Mend(b.ctx, named, false); err != nil || len(again) > 0 || !b.Store.Exists(orphan) {
		t.Errorf("again: %v, %v", again, err)
	}
	after, err := b.Usage(b.ctx, "n/2/top")
	b.ok(err)
	if before != after {
		t.Errorf("usage was %v, is %v", before, after)
	}
	info, err := b.Stat(b.ctx, "n/2/top")
	b.ok(err)
	if info.Parent != "n/1/base" || info.Kind != snapshots.KindCommitted {
		t.Errorf("made again as %+v", info)
	}
	m, err := b.Mounts(b.ctx, "n/3/container")
	b.ok(err)
	b.at(m, func(dir string) {
		for _, part := range []string{"n/1/base", "n/2/top"} {
			_, err := os.Stat(filepath.Join(dir, filepath.Base(part)))
			b.ok(err)
		}
	})
	b.prepare("n/6/new", "n/2/top")
	mended, err = b.Mend(b.ctx, named, true)
	if err != nil || len(mended) != 1 || b.Store.Exists(orphan) {
		t.Errorf("erased %v: %v", mended, err)
	}
}

// A database older than the store: what was committed, removed and made since.
func TestMendOlderDatabase(t *testing.T) {
	b := newBench(t)
	b.commitAs("n/1/base", "")
	b.prepare("n/2/key", "n/1/base")
	b.prepare("n/3/gone", "n/1/base")
	b.ok(b.Stop())
	old, err := os.ReadFile(b.database())
	b.ok(err)
	b.start()
	b.ok(b.Commit(b.ctx, "n/4/done", "n/2/key"))
	b.ok(b.Remove(b.ctx, "n/3/gone"))
	b.ok(b.Snapshotter.Cleanup(b.ctx))
	b.prepare("n/5/later", "n/4/done")
	b.ok(b.Stop())
	b.ok(os.WriteFile(b.database(), old, 0o600))
	b.start()
	named := names("n/1/base", "n/4/done", "n/5/later")
	mended, err := b.Mend(b.ctx, named, false)
	if err != nil || len(mended) != 3 {
		t.Errorf("mended %v: %v", mended, err)
	}
	for _, key := range []string{"n/1/base", "n/4/done", "n/5/later"} {
		if _, err := b.Stat(b.ctx, key); err != nil {
			t.Error(err)
		}
	}
	_, err = b.Mounts(b.ctx, "n/5/later")
	b.ok(err)
	b.ok(b.Stop())
	b.startStore()
	b.same(b.problems(named))
	// And an older database of containerd: its garbage collection would remove these.
	b.same(b.problems(names("n/1/base")), "unknown n/4/done", "unknown n/5/later")
	b.restartStore()
}

// What a label still names stays, whatever is wrong with it.
func TestMendNamed(t *testing.T) {
	b := newBench(t)
	b.commitAs("n/1/base", "")
	b.prepare("n/2/key", "n/1/base")
	b.ok(b.Store.Remove(b.ctx, b.layerOf("n/2/key").ID))
	named := names("n/1/base", "n/2/key")
	if mended, err := b.Mend(b.ctx, named, true); err != nil || len(mended) > 0 {
		t.Errorf("mended %v: %v", mended, err)
	}
	if _, err := b.Stat(b.ctx, "n/2/key"); err != nil {
		t.Error(err)
	}
	if mended, err := b.Mend(b.ctx, names("n/1/base"), false); err != nil || len(mended) != 1 {
		t.Errorf("mended %v: %v", mended, err)
	}
	b.offline(func(ours, all *bolt.Bucket) error {
		return ours.Bucket([]byte("layers")).Put(number(all, "n/1/base"), []byte("snobody1"))
	})
	if mended, err := b.Mend(b.ctx, names("n/1/base"), true); err == nil || len(mended) > 0 {
		t.Errorf("an entry that names a lost layer, beside the layer itself: %v, %v", mended, err)
	}
	b.ok(b.Remove(b.ctx, "n/1/base"))
	if mended, err := b.Mend(b.ctx, names("n/1/base"), true); err != nil || len(mended) != 1 {
		t.Errorf("mended %v: %v", mended, err)
	}
}

// The database of a running service is not read.
func TestEntriesInUse(t *testing.T) {
	b := newBench(t)
	_, _, err := snapshotter.Entries(b.ctx, filepath.Join(b.dir, "snapshots"))
	b.wants(err, snapshotter.ErrInUse)
	if entries, _, err := snapshotter.Entries(b.ctx, t.TempDir()); err != nil || len(entries) > 0 {
		t.Errorf("without a database: %v, %v", entries, err)
	}
}

// commitAs is commit for a name as containerd makes them; the file has the last part of it.
func (b *bench) commitAs(name, parent string) {
	b.Helper()
	b.at(b.prepare("of "+name, parent), func(dir string) { b.write(filepath.Join(dir, filepath.Base(name)), name) })
	b.ok(b.Commit(b.ctx, name, "of "+name))
}

// startStore is a process with the store alone, so that the database is free.
func (b *bench) startStore() {
	b.Helper()
	b.start()
	b.ok(b.Close())
}

func (b *bench) restartStore() {
	b.Helper()
	b.ok(b.Stop())
	b.start()
}

// What names a snapshot in containerd's own database, written by containerd's own code.
func TestReadNames(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "meta.db")
	_, err := snapshotter.ReadNames(path, "layervault")
	b.wants(err, fs.ErrNotExist)
	file, err := bolt.Open(path, 0o600, nil)
	b.ok(err)
	blobs, err := local.NewStore(t.TempDir())
	b.ok(err)
	db := metadata.NewDB(file, blobs, map[string]snapshots.Snapshotter{"layervault": b.Snapshotter, "other": b.Snapshotter})
	ctx := namespaces.WithNamespace(context.Background(), "n")
	b.ok(db.Init(ctx))
	_, err = db.Snapshotter("layervault").Prepare(ctx, "listed", "")
	b.ok(err)
	_, err = db.Snapshotter("other").Prepare(ctx, "of another", "")
	b.ok(err)
	for id, of := range map[string]string{"mine": "layervault", "theirs": "other"} {
		_, err = metadata.NewContainerStore(db).Create(ctx, containers.Container{
			ID: id, Snapshotter: of, SnapshotKey: "of container " + id, Runtime: containers.RuntimeInfo{Name: "r"}, Spec: anything{},
		})
		b.ok(err)
	}
	lease, err := metadata.NewLeaseManager(db).Create(ctx, leases.WithID("lease"))
	b.ok(err)
	b.ok(metadata.NewLeaseManager(db).AddResource(ctx, lease, leases.Resource{ID: "leased", Type: "snapshots/layervault"}))
	data := "blob"
	desc := ocispec.Descriptor{Size: int64(len(data)), Digest: digest.FromString(data)}
	b.ok(content.WriteBlob(ctx, db.ContentStore(), "ref", strings.NewReader(data), desc, content.WithLabels(map[string]string{
		"containerd.io/gc.ref.snapshot.layervault": "labelled", "containerd.io/gc.ref.snapshot.layervault/1": "labelled too",
		"containerd.io/gc.ref.snapshot.layervaults": "of another", "containerd.io/gc.root": "x",
	})))
	_, err = snapshotter.ReadNames(path, "layervault")
	b.wants(err, snapshotter.ErrRunning)
	b.ok(file.Close())
	n, err := snapshotter.ReadNames(path, "layervault")
	b.ok(err)
	var known []string
	b.ok(b.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasSuffix(info.Name, "/listed") {
			known = append(known, info.Name)
		}
		return nil
	}))
	if len(known) != 1 || n.Named(known[0]) != snapshotter.IsNamed {
		t.Errorf("listed as %q: %v", known, n.Named(known[0]))
	}
	for name, want := range map[string]snapshotter.Named{
		"n/77/listed": snapshotter.NotNamed, // one of before
		"n/1/leased":  snapshotter.IsNamed, "n/1/labelled": snapshotter.IsNamed, "n/1/labelled too": snapshotter.IsNamed,
		"n/1/of container mine": snapshotter.IsNamed, "n/1/of container theirs": snapshotter.NotNamed,
		"n/1/of another": snapshotter.NotNamed, "other/1/leased": snapshotter.NotNamed, "foreign": snapshotter.Unsaid,
	} {
		if got := n.Named(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
	b.ok(os.WriteFile(path, []byte("no database"), 0o600))
	if _, err := snapshotter.ReadNames(path, "layervault"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a damaged database: %v", err)
	}
}

// anything is a container's specification.
type anything struct{}

func (anything) GetTypeUrl() string { return "t" }
func (anything) GetValue() []byte   { return []byte("v") }
