package convert_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"layervault/convert"
	"layervault/internal/flock"
)

// small is a layout with one VM of one drive, and its source and target.
func small(t *testing.T, size int) (d *device, source, target string) {
	d = newDevice(t)
	vm, id := uuidOf("vm"), uuidOf("volume")+"#2"
	d.write("checkpoint/lastconfig", response(appMsg(vm, 0, driveMsg(shaOf("a"), 3), refMsg(uuidOf("volume"), 2)), volumeMsg(uuidOf("volume"), 0)))
	source, target = "img/"+shaOf("a")+"-"+vm+".qcow2", "volumes/"+id+"/"+id+".qcow2"
	d.goes(source, target, d.random(size))
	return d, source, target
}

func (d *device) run(change func(*convert.Config)) (convert.Report, error) {
	cfg := d.config()
	if change != nil {
		change(&cfg)
	}
	return convert.Run(d.t.Context(), cfg)
}

func commit(c *convert.Config) { c.Commit = true }

func line(t *testing.T, r convert.Report, source string) convert.Line {
	t.Helper()
	i := slices.IndexFunc(r.Items, func(l convert.Line) bool { return l.Source == source })
	if i < 0 {
		t.Fatalf("%s is not in the report: %+v", source, r.Items)
	}
	return r.Items[i]
}

func wantErr(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
		t.Fatalf("%v, want %v with %q", err, want, text)
	}
}

func exists(t *testing.T, path string, want bool) {
	t.Helper()
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) == want {
		t.Errorf("%s: %v", path, err)
	}
}

// A checkpoint that was cut short is passed over for its copy, for the older name, and for the
// copy of that.
func TestCheckpoints(t *testing.T) {
	for n, name := range []string{"lastconfig", "lastconfig.bak", "config", "config.bak"} {
		d, source, _ := small(t, 10)
		whole, err := os.ReadFile(d.path("checkpoint/lastconfig"))
		must(t, err)
		for _, before := range []string{"lastconfig", "lastconfig.bak", "config", "config.bak"}[:n] {
			d.write("checkpoint/"+before, whole[:len(whole)/2])
		}
		d.write("checkpoint/"+name, whole)
		r, err := d.run(nil)
		must(t, err)
		if r.Config != "checkpoint/"+name || len(r.ConfigTried) != n || line(t, r, source).Status != convert.Copied {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Without a configuration volumes wait for one, and downloads and containerd are converted.
func TestNoConfig(t *testing.T) {
	for name, spoil := range map[string]func(d *device){
		"none":      func(d *device) { must(t, os.RemoveAll(d.path("checkpoint"))) },
		"cut short": func(d *device) { must(t, os.Truncate(d.path("checkpoint/lastconfig"), 20)) },
		"a link away": func(d *device) {
			d.write("../elsewhere", nil)
			must(t, os.Remove(d.path("checkpoint/lastconfig")))
			must(t, os.Symlink("../../elsewhere", d.path("checkpoint/lastconfig")))
		},
		"a FIFO": func(d *device) {
			must(t, os.Remove(d.path("checkpoint/lastconfig")))
			must(t, unix.Mkfifo(d.path("checkpoint/lastconfig"), 0o600))
		},
	} {
		d, source, _ := small(t, 10)
		whole, err := os.ReadFile(d.path("checkpoint/lastconfig"))
		must(t, err)
		spoil(d)
		d.goes("downloads/x.obj/pending/one", "downloader/pending/one", nil)
		r, err := d.run(nil)
		wantErr(t, err, convert.ErrUnfinished, "img/")
		wantErr(t, err, convert.ErrNoConfig, "")
		if line(t, r, source).Status != convert.Failed || line(t, r, "downloads/x.obj/pending/one").Status != convert.Copied || r.Complete {
			t.Errorf("%s: %+v", name, r.Items)
		}
		exists(t, d.path("vault/converted.json"), false)
		// Once there is a configuration, another run does the rest.
		must(t, os.RemoveAll(d.path("checkpoint")))
		d.write("checkpoint/lastconfig", whole)
		_, err = d.run(nil)
		must(t, err)
		exists(t, d.path("vault/converted.json"), true)
	}
}

// An existing destination is never replaced, and the source stays, commit or not.
func TestExists(t *testing.T) {
	d, source, target := small(t, 1000)
	there := filepath.Join(d.areas, target)
	must(t, os.MkdirAll(filepath.Dir(there), 0o700))
	must(t, os.WriteFile(there, []byte("somebody else's"), 0o600))
	before := d.before()
	for range 2 {
		r, err := d.run(commit)
		must(t, err)
		if l := line(t, r, source); l.Status != convert.Stays || !strings.Contains(l.Reason, "destination exists") {
			t.Errorf("%+v", l)
		}
		same(t, "source", before[source], snapshot(t, d.path(source)))
		if data, err := os.ReadFile(there); err != nil || string(data) != "somebody else's" {
			t.Errorf("%q, %v", data, err)
		}
	}
}

// So is one that appears while its source is copied.
func TestAppears(t *testing.T) {
	for _, at := range []string{"stage", "rename"} {
		d, source, target := small(t, 1000)
		there := filepath.Join(d.areas, target)
		r, err := d.run(func(c *convert.Config) {
			c.Commit = true
			c.Checkpoint = func(step string) error {
				if step == at {
					must(t, os.WriteFile(there, []byte("somebody else's"), 0o600))
				}
				return nil
			}
		})
		must(t, err)
		if at == "stage" { // it is seen at the latest when the copy gets its name
			t.Log(line(t, r, source).Reason)
		}
		if l := line(t, r, source); l.Status != convert.Stays || !strings.Contains(l.Reason, "destination exists") {
			t.Errorf("%s: %+v", at, l)
		}
		exists(t, d.path(source), true)
		if data, err := os.ReadFile(there); err != nil || string(data) != "somebody else's" {
			t.Errorf("%s: %q, %v", at, data, err)
		}
		if left, _ := filepath.Glob(filepath.Join(d.areas, "*/*/.upgrade-*")); len(left) > 0 {
			t.Errorf("%s: left %q", at, left)
		}
	}
}

func TestRefuses(t *testing.T) {
	d, _, _ := small(t, 10)
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	listening := func(c *convert.Config) { c.Sockets = []string{socket} }
	_, err = d.run(listening) // there is no old containerd
	must(t, err)
	d.write("containerd/io.containerd.metadata.v1.bolt/meta.db", []byte("bolt"))
	_, err = d.run(listening)
	wantErr(t, err, convert.ErrContainerd, socket)

	db, err := os.Open(d.path("containerd/io.containerd.metadata.v1.bolt/meta.db"))
	must(t, err)
	must(t, flock.TryLock(db, flock.Exclusive))
	_, err = d.run(nil)
	wantErr(t, err, convert.ErrContainerd, "locked")
	must(t, db.Close())

	for _, marker := range []string{"vault/volumes-kvm/x", "vault2/x", "vault.old/x", "status/vault-migration-swap", "status/KVM-to-Kube.pending"} {
		d.write(marker, nil)
		_, err = d.run(nil)
		wantErr(t, err, convert.ErrMigrating, filepath.Dir(marker)[:5])
		top, _, _ := strings.Cut(marker, "/")
		if top == "vault" {
			top = "vault/volumes-kvm"
		}
		must(t, os.RemoveAll(d.path(top)))
	}
	_, err = d.run(nil)
	must(t, err)

	// Two at a time.
	d, source, _ := small(t, 10)
	_, err = d.run(func(c *convert.Config) {
		c.Checkpoint = func(step string) error {
			if step == "copying" {
				_, err := d.run(nil)
				wantErr(t, err, convert.ErrRunning, "")
			}
			return nil
		}
	})
	must(t, err)
	exists(t, d.path(source), true)
}

// A source that is written to while it is copied, or afterwards, is kept, and copied again.
func TestChanges(t *testing.T) {
	for _, at := range []string{"finish", "ready"} {
		d, source, target := small(t, 200_000)
		_, err := d.run(func(c *convert.Config) {
			c.Checkpoint = func(step string) error {
				if step == at {
					f, err := os.OpenFile(d.path(source), os.O_WRONLY, 0)
					must(t, err)
					_, err = f.WriteAt([]byte("changed"), 1000)
					must(t, err)
					must(t, f.Close())
				}
				return nil
			}
			c.Commit = true
		})
		wantErr(t, err, convert.ErrChanged, source)
		exists(t, d.path(source), true)
		if at == "finish" {
			before := d.before()
			_, err = d.run(nil)
			must(t, err)
			same(t, at, before[source], snapshot(t, filepath.Join(d.areas, target)))
		}
	}
	d, source, _ := small(t, 1000)
	_, err := d.run(nil)
	must(t, err)
	must(t, os.WriteFile(d.path(source), []byte("the base OS fell back, and the VM ran"), 0o640))
	for range 2 {
		r, err := d.run(commit)
		wantErr(t, err, convert.ErrChanged, "since it was copied")
		if l := line(t, r, source); l.Status != convert.Failed {
			t.Errorf("%+v", l)
		}
		exists(t, d.path(source), true)
	}
}

// A link in the place of a folder leads nowhere.
func TestHostileLinks(t *testing.T) {
	elsewhere := t.TempDir()
	must(t, os.WriteFile(filepath.Join(elsewhere, "secret"), []byte("not EVE's"), 0o600))
	d, _, _ := small(t, 10)
	must(t, os.Rename(d.path("img"), d.path("other")))
	for _, name := range []string{"img", "downloads", "containerd"} {
		must(t, os.Symlink(elsewhere, d.path(name)))
	}
	must(t, os.MkdirAll(d.path("runx"), 0o755))
	must(t, os.Symlink(elsewhere, d.path("runx/pods")))
	r, err := d.run(commit)
	must(t, err)
	for _, l := range r.Items {
		if l.Status != convert.Stays {
			t.Errorf("%+v", l)
		}
	}
	if len(r.Items) != 4 {
		t.Errorf("%+v", r.Items)
	}
	exists(t, filepath.Join(elsewhere, "secret"), true)
}

// What another name outside the source shares is not overwritten.
func TestSharedFile(t *testing.T) {
	d, source, _ := small(t, 5000)
	must(t, os.Link(d.path(source), d.path("keep")))
	want := snapshot(t, d.path("keep"))["."]
	_, err := d.run(commit)
	must(t, err)
	exists(t, d.path(source), false)
	if got := strings.Split(snapshot(t, d.path("keep"))["."], " content ")[1]; !strings.Contains(want, strings.Fields(got)[0]) {
		t.Errorf("%s, was %s", got, want)
	}
}

// The blocks of a destroyed source hold zeros: seen through a descriptor that was opened before.
func TestOverwritten(t *testing.T) {
	d, source, _ := small(t, 3_000_000)
	var held *os.File
	_, err := d.run(func(c *convert.Config) {
		c.Commit = true
		c.Checkpoint = func(step string) (err error) {
			if step == "destroy" {
				held, err = os.Open(d.path(source))
			}
			return err
		}
	})
	must(t, err)
	defer held.Close()
	data := make([]byte, 3_000_000)
	if n, err := held.ReadAt(data, 0); err != nil || strings.Trim(string(data), "\x00") != "" {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Cut at each step, as by a crash, and finished by the next run.
func TestCut(t *testing.T) {
	errCut := errors.New("the power went")
	cuts := 0
	for whole := false; !whole; cuts++ {
		d, _, _ := small(t, 1000)
		d.tree("runx/pods/prepared/"+shaOf("x")+"-"+uuidOf("nobody"), 1)
		d.want["runx/pods/prepared/"+shaOf("x")+"-"+uuidOf("nobody")] = ""
		d.tree("downloads/x.obj/pending/tree", 5)
		d.want["downloads/x.obj/pending/tree"] = "downloader/pending/tree"
		before := d.before()
		n, at := 0, ""
		_, err := d.run(func(c *convert.Config) {
			c.Commit = true
			c.Checkpoint = func(step string) error {
				if n++; n == cuts+1 {
					at = step
					return errCut
				}
				return nil
			}
		})
		if whole = at == ""; whole {
			must(t, err)
		} else if !errors.Is(err, errCut) {
			t.Fatalf("%s: %v", at, err)
		}
		_, err = d.run(commit)
		must(t, err)
		d.check(before, true)
		if t.Failed() {
			t.Fatalf("cut %d, before %s", cuts, at)
		}
	}
	if cuts < 20 {
		t.Errorf("only %d places to cut at", cuts)
	}
}

// A run that is cancelled says so, and leaves the rest to the next.
func TestCancelled(t *testing.T) {
	d, source, _ := small(t, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := d.config()
	cfg.Checkpoint = func(step string) error {
		if step == "finish" {
			cancel()
		}
		return nil
	}
	r, err := convert.Run(ctx, cfg)
	wantErr(t, err, context.Canceled, "waits to be finished")
	if line(t, r, source).Status != convert.Waiting || r.Complete {
		t.Errorf("%+v", r.Items)
	}
	_, err = d.run(nil)
	must(t, err)
}

// tmpfs mounts a disk of some size.
func tmpfs(t *testing.T, at string, size int) {
	t.Helper()
	must(t, os.MkdirAll(at, 0o700))
	must(t, unix.Mount("test", at, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)))
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
}

// The space is checked before anything is done, for both modes.
func TestSpace(t *testing.T) {
	d, _, _ := small(t, 3<<20)
	for i := range 3 {
		name := fmt.Sprintf("downloads/x.obj/pending/%d", i)
		d.goes(name, fmt.Sprintf("downloader/pending/%d", i), d.random(3<<20))
	}
	before := d.before()
	places := d.places()
	// One disk for the old layout and the new one, with room for one more copy and not for four.
	tight := func(commit bool) func(*convert.Config) {
		return func(c *convert.Config) {
			c.Commit = commit
			c.Places = pretend{places, d.root, 5 << 20}
		}
	}
	_, err := d.run(tight(false))
	wantErr(t, err, convert.ErrNoSpace, "--commit")
	wantErr(t, err, unix.ENOSPC, "")
	exists(t, filepath.Join(d.areas, "downloader/pending"), false)
	_, err = d.run(func(c *convert.Config) { tight(true)(c); c.Keep = 4 << 20 })
	wantErr(t, err, convert.ErrNoSpace, "stay free")
	for _, dry := range []bool{true, false} {
		_, err = d.run(func(c *convert.Config) { tight(true)(c); c.DryRun = dry })
		must(t, err)
	}
	d.check(before, true)
}

// pretend has some bytes free on the disk of the old layout.
type pretend struct {
	convert.Places
	root string
	free int64
}

func (p pretend) Room(context.Context, convert.Target) ([]convert.Room, error) {
	pool, _, err := convert.Disk(p.root)
	return []convert.Room{{Pool: pool, Free: p.free}}, err
}

// An area has room inside, and the disk that its image grows on has none.
func TestSpaceBelowImages(t *testing.T) {
	d, _, _ := small(t, 10)
	d.goes("downloads/x.obj/pending/big", "downloader/pending/big", d.random(8<<20))
	disk := t.TempDir()
	tmpfs(t, disk, 4<<20)
	_, err := d.run(func(c *convert.Config) { c.Places = convert.Images{Folders: d.places(), On: disk} })
	wantErr(t, err, convert.ErrNoSpace, "")
	exists(t, filepath.Join(d.areas, "downloader/pending"), false)
}

// A disk that fills up all the same fails that item, gives its space back, and lets the others
// go on. With space, the next run finishes.
func TestFullDisk(t *testing.T) {
	d, source, _ := small(t, 8<<20)
	d.goes("downloads/x.obj/pending/little", "downloader/pending/little", d.random(1000))
	before := d.before()
	tmpfs(t, filepath.Join(d.areas, "volumes"), 4<<20)
	lie := func(c *convert.Config) {
		c.Commit = true
		c.Places = pretend{d.places(), d.areas, 1 << 40}
	}
	r, err := d.run(lie)
	wantErr(t, err, unix.ENOSPC, source)
	if line(t, r, source).Status != convert.Failed || line(t, r, "downloads/x.obj/pending/little").Status != convert.Moved {
		t.Errorf("%+v", r.Items)
	}
	if _, free, err := convert.Disk(filepath.Join(d.areas, "volumes")); err != nil || free < 3<<20 {
		t.Errorf("%d bytes are free: %v", free, err)
	}
	exists(t, d.path(source), true)
	must(t, unix.Mount("test", filepath.Join(d.areas, "volumes"), "", unix.MS_REMOUNT, "size=64m"))
	_, err = d.run(lie)
	must(t, err)
	d.check(before, true)
}

// A mount inside a source, an area that is not open, and a file that a process has open are
// waited for.
func TestWaits(t *testing.T) {
	d, source, _ := small(t, 10)
	d.tree("downloads/x.obj/pending/tree", 2)
	tmpfs(t, d.path("downloads/x.obj/pending/tree/mnt"), 1<<20)
	d.goes("downloads/x.obj/verifier/one", "verifier/pending/one", nil)
	r, err := d.run(func(c *convert.Config) {
		places := d.places()
		delete(places, convert.Verifier)
		c.Places = places
	})
	wantErr(t, err, convert.ErrUnfinished, "")
	wantErr(t, err, convert.ErrMounted, "mnt")
	wantErr(t, err, convert.ErrNoArea, "verifier")
	if line(t, r, source).Status != convert.Copied || r.Count(convert.Failed) != 2 {
		t.Errorf("%+v", r.Items)
	}
	exists(t, d.path("vault/converted.json"), false)
}
