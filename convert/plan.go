package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/persist"
)

// Kind is what an item was in the old layout.
type Kind string

// The kinds of items.
const (
	VM         Kind = "vm"         // img/<sha>-<app>[#<purge>].<format>
	Container  Kind = "container"  // runx/pods/prepared/<sha>-<app>[#<purge>]
	Verified   Kind = "verified"   // downloads/<type>/verified/<SHA>/<file>
	Verifying  Kind = "verifying"  // downloads/<type>/verifier/<name>
	Pending    Kind = "pending"    // downloads/<type>/pending/<name>
	Containerd Kind = "containerd" // containerd
)

// The old places.
const (
	imgDir        = "img"
	preparedDir   = "runx/pods/prepared"
	downloadsDir  = "downloads"
	containerdDir = "containerd"
)

// maxItems bounds a plan. A device has some hundred volumes and blobs; more is left for another
// run.
const maxItems = 20_000

// Item is one thing of the old layout.
type Item struct {
	Source string // path below the root
	Kind   Kind
	Target Target // where it goes, unless it is left
	// Left is why the item stays where it is; nil for one that moves.
	Left error
	// Notes are what a person should know of the decision.
	Notes []string

	sha  string // content must have this SHA-256; "" for any
	tree tree
}

// Reasons why an item is left. The text of an item's error names the rest.
var (
	ErrName        = errors.New("not a name of EVE's old layout")
	ErrKind        = errors.New("not what EVE puts there")
	ErrReserved    = errors.New("reserved by EVE")
	ErrNoApp       = errors.New("application is not in the configuration")
	ErrNoDrive     = errors.New("application has no drive with this content")
	ErrPurged      = errors.New("purge counter is not that of the configuration")
	ErrNoRef       = errors.New("drive has no volume reference")
	ErrBadRef      = errors.New("volume reference has no valid UUID or generation")
	ErrTaken       = errors.New("destination is taken")
	ErrExists      = errors.New("destination exists")
	ErrWrongDigest = errors.New("content does not have the digest of its name")
	ErrInUse       = errors.New("in use")
)

// planner decides what goes where.
type planner struct {
	ctx    context.Context
	root   *folder
	config *device // nil without one
	noConf error   // why there is none
	items  []*Item
	// taken are slots of targets that an item has, of this plan or of an earlier run, and drives
	// that have a file.
	taken  map[Target]string
	drives map[string]string
}

// plan lists what is in the old places. Nothing is read but names, and the configuration.
func (p *planner) plan() ([]*Item, error) {
	p.drives = map[string]string{}
	for _, step := range []func() error{
		func() error { return p.volumes(imgDir, false) },
		func() error { return p.volumes(preparedDir, true) },
		p.downloads,
		p.containerd,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p.items, nil
}

// within calls do for each name of an old place, sorted. A place that does not exist is empty;
// one that is no folder is an item that is left.
func (p *planner) within(dir string, kind Kind, do func(at *folder, name string, st *unix.Stat_t) error) error {
	fd, err := openBeneath(p.root.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) { // a file, or a symbolic link, which is not followed
		err = fmt.Errorf("%w: %w", ErrKind, err)
	}
	if err != nil {
		p.leave(dir, kind, err)
		return nil
	}
	at := newFolder(fd, dir)
	defer at.close()
	err = at.each(func(name string, st *unix.Stat_t) error {
		if len(p.items) >= maxItems {
			return fmt.Errorf("%w: more than %d items", ErrTooMany, maxItems)
		}
		return do(at, name, st)
	})
	if err != nil && !errors.Is(err, ErrTooMany) {
		p.leave(dir, kind, err)
		return nil
	}
	return err
}

func (p *planner) leave(source string, kind Kind, why error) {
	p.items = append(p.items, &Item{Source: source, Kind: kind, Left: why})
}

// move adds an item, unless another has its target.
func (p *planner) move(it *Item) {
	at := slot(it.Target)
	if other := p.taken[at]; other != "" && other != it.Source {
		it.Left = fmt.Errorf("%w by %s", ErrTaken, other)
	} else {
		p.taken[at] = it.Source
	}
	p.items = append(p.items, it)
}

// slot is what one item can have of a target: a whole volume, whatever the format and the tier,
// or a name in an area.
func slot(t Target) Target {
	if t.Volume != "" {
		return Target{Volume: t.Volume}
	}
	t.Size = 0
	return t
}

// volumes plans old volumes: files of VMs, or folders of containers. Those with a drive of
// their own format come first, so that two drives with one content get what is theirs.
func (p *planner) volumes(dir string, folders bool) error {
	kind := VM
	if folders {
		kind = Container
	}
	var found []*Item
	var names []oldName
	err := p.within(dir, kind, func(_ *folder, name string, st *unix.Stat_t) error {
		it := &Item{Source: join(dir, name), Kind: kind}
		old, ok := parseOld(name, folders)
		want := uint32(unix.S_IFREG)
		if folders {
			want = unix.S_IFDIR
		}
		switch {
		case persist.IsReserved(name):
			it.Left = ErrReserved
		case !ok:
			it.Left = ErrName
		case kindOf(st) != want:
			it.Left = fmt.Errorf("%w: a %s", ErrKind, kindName(st))
		case p.config == nil:
			it.Left = p.noConf
		}
		if it.Left != nil {
			p.items = append(p.items, it)
			return nil
		}
		found, names = append(found, it), append(names, old)
		return nil
	})
	if err != nil {
		return err
	}
	done := make([]bool, len(found))
	for _, exact := range []bool{true, false} {
		for i, it := range found {
			if !done[i] {
				done[i] = p.assign(it, names[i], exact)
			}
		}
	}
	return nil
}

// assign finds the drive that an old volume belongs to, and gives it the target of the drive's
// volume reference. With exact only a drive of the same format counts, and false means that
// there is none.
func (p *planner) assign(it *Item, old oldName, exact bool) bool {
	a := p.config.app(old.app)
	if a == nil {
		if exact {
			return false
		}
		it.Left = fmt.Errorf("%w: %s", ErrNoApp, old.app)
		p.items = append(p.items, it)
		return true
	}
	var same, purged []int // drives with this content, and those of another purge counter
	for i, d := range a.drives {
		switch {
		case !strings.EqualFold(d.sha, old.sha) || exact && d.format != formats[old.format]:
		case old.purge != a.purgeOf(i):
			purged = append(purged, i)
		default:
			same = append(same, i)
		}
	}
	free := slices.DeleteFunc(slices.Clone(same), func(i int) bool { return p.drives[driveOf(old.app, i)] != "" })
	if exact && len(free) == 0 {
		return false
	}
	switch {
	case len(free) > 0:
		p.give(it, old, a, free)
	case len(same) > 0:
		it.Left = fmt.Errorf("%w: drive %d of application %s has %s", ErrTaken, same[0], old.app, p.drives[driveOf(old.app, same[0])])
	case len(purged) > 0:
		it.Left = fmt.Errorf("%w: %d, the configuration has %d for drive %d of application %s", ErrPurged, old.purge, a.purgeOf(purged[0]), purged[0], old.app)
	default:
		it.Left = fmt.Errorf("%w: application %s, SHA-256 %s", ErrNoDrive, old.app, old.sha)
	}
	if it.Left != nil {
		p.items = append(p.items, it)
	}
	return true
}

// purgeOf is the purge counter of a drive: only the first drive of an application has one.
func (a *app) purgeOf(drive int) uint32 {
	if drive == 0 {
		return a.purge
	}
	return 0
}

func driveOf(app string, i int) string { return fmt.Sprintf("%s/%d", app, i) }

// give maps drive i to volume reference i. free are the drives that the old volume fits.
func (p *planner) give(it *Item, old oldName, a *app, free []int) {
	i := free[0]
	p.drives[driveOf(old.app, i)] = it.Source
	if i >= len(a.refs) {
		it.Left = fmt.Errorf("%w: drive %d of application %s, which has %d references", ErrNoRef, i, old.app, len(a.refs))
		return
	}
	ref := a.refs[i]
	id := goodUUID(ref.uuid)
	if id == "" || ref.generation < 0 {
		it.Left = fmt.Errorf("%w: reference %d of application %s: %q, generation %d", ErrBadRef, i, old.app, ref.uuid, ref.generation)
		return
	}
	if len(free) > 1 {
		it.Notes = append(it.Notes, fmt.Sprintf("drives %v have the same content and name; the volume is that of drive %d, the others begin from their image", free, i))
	}
	it.Target = Target{Area: Volumes, Volume: fmt.Sprintf("%s#%d", id, ref.generation)}
	it.Target.Name = it.Target.Volume + "." + old.format
	if v := p.config.volume(id); v != nil {
		it.Target.Area, _ = volumeArea(v.clear, old.format)
		it.Target.Size = max(v.maxSize, 0)
		if v.clear && it.Target.Area == Volumes {
			it.Notes = append(it.Notes, "the configuration wants clear text; content of containers is always encrypted")
		}
	} else {
		it.Notes = append(it.Notes, "the configuration has the reference and not the volume; it is encrypted")
	}
	p.move(it)
}

// downloads plans what was downloaded, of every type of object.
func (p *planner) downloads() error {
	return p.within(downloadsDir, Pending, func(_ *folder, object string, st *unix.Stat_t) error {
		dir := join(downloadsDir, object)
		if kindOf(st) != unix.S_IFDIR {
			p.leave(dir, Pending, fmt.Errorf("%w: a %s", ErrKind, kindName(st)))
			return nil
		}
		for _, step := range []struct {
			name   string
			kind   Kind
			target Target
		}{
			{"verified", Verified, Target{}},
			{"verifier", Verifying, Target{Area: Verifier, Dir: "pending"}},
			{"pending", Pending, Target{Area: Downloader, Dir: "pending"}},
		} {
			err := p.within(join(dir, step.name), step.kind, func(at *folder, name string, st *unix.Stat_t) error {
				source := join(at.path, name)
				switch {
				case step.kind == Verified:
					p.verified(at, name, st)
				case kindOf(st) != unix.S_IFDIR && kindOf(st) != unix.S_IFREG:
					p.leave(source, step.kind, fmt.Errorf("%w: a %s", ErrKind, kindName(st)))
				default:
					t := step.target
					t.Name = name
					p.move(&Item{Source: source, Kind: step.kind, Target: t})
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// verified plans the one file in the folder of a verified digest.
func (p *planner) verified(at *folder, name string, st *unix.Stat_t) {
	source := join(at.path, name)
	if !shaName.MatchString(name) {
		p.leave(source, Verified, ErrName)
		return
	}
	if kindOf(st) != unix.S_IFDIR {
		p.leave(source, Verified, fmt.Errorf("%w: a %s", ErrKind, kindName(st)))
		return
	}
	below, err := openFolder(at, name)
	if err != nil {
		p.leave(source, Verified, err)
		return
	}
	defer below.close()
	var file string
	n := 0
	err = below.each(func(name string, st *unix.Stat_t) error {
		n++
		file = name
		if kindOf(st) != unix.S_IFREG {
			return fmt.Errorf("%w: a %s", ErrKind, kindName(st))
		}
		return nil
	})
	if err == nil && n != 1 {
		err = fmt.Errorf("%w: %d files, not one", ErrKind, n)
	}
	if err != nil {
		p.leave(source, Verified, err)
		return
	}
	sha := strings.ToLower(name)
	p.move(&Item{Source: join(source, file), Kind: Verified, sha: sha, Target: Target{Area: Verifier, Dir: "verified", Name: sha}})
}

// containerd plans the root of EVE's containerd, with the content store in it.
func (p *planner) containerd() error {
	st, err := p.root.stat(containerdDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		p.leave(containerdDir, Containerd, err)
	case kindOf(&st) != unix.S_IFDIR:
		p.leave(containerdDir, Containerd, fmt.Errorf("%w: a %s", ErrKind, kindName(&st)))
	default:
		p.move(&Item{Source: containerdDir, Kind: Containerd, Target: Target{Area: Case, Name: "containerd"}})
	}
	return nil
}
