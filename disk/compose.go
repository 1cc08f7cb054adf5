package disk

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"layervault/volume"
)

// Bsp is the platform of device.json's own volumes.
const Bsp = "bsp"

// Source is what Compose reads.
type Source struct {
	Text []byte // run.json or src.json
	Src  []byte // the src.json beside a run.json, which knows the mount points; nil for none
	// Name is the container's, whatever the files say; "" for what they say.
	Name string
	// Folder is the name of the folder that the file lies in: pvr's name of a container
	// whose files have none.
	Folder string
}

// Mount is one volume of a container, as docker is to be told of it.
type Mount struct {
	Volume  string            `json:"volume"`  // docker's name
	Target  string            `json:"target"`  // in the container
	Options map[string]string `json:"options"` // of docker volume create
	// Guessed: the target was worked out from a storage key, in which a dash may have been
	// a slash.
	Guessed bool `json:"guessed,omitempty"`
	// Overlay: Pantavisor shows the volume over the image's content (ovl:). Docker copies
	// that content into the volume once, when the volume is new.
	Overlay bool `json:"overlay,omitempty"`
}

// Container is what run.json and src.json say of a container's volumes.
type Container struct {
	Name     string
	Mounts   []Mount
	Warnings []Warning
	// LeftOut are entries without a counterpart in docker, for a person to handle.
	LeftOut []Warning
}

// composer collects what a container's files say.
type composer struct {
	set *Set
	Container
}

func (c *composer) warn(entry, format string, args ...any) {
	c.Warnings = append(c.Warnings, Warning{entry, fmt.Sprintf(format, args...)})
}

func (c *composer) leave(entry, format string, args ...any) {
	c.LeftOut = append(c.LeftOut, Warning{entry, fmt.Sprintf(format, args...)})
}

// Compose reads a container's run.json (its map storage) or src.json (its map
// persistence, and the image's own volumes), and says which volumes docker is to give it.
// A file that cannot be read is ErrBadFile; single entries are left out with the reason.
func (s *Set) Compose(in Source) (Container, error) {
	if s.bad != nil {
		return Container{}, s.bad
	}
	c := composer{set: s}
	members, err := object(in.Text)
	if err != nil {
		return Container{}, fmt.Errorf("%w: %w", ErrBadFile, err)
	}
	isRun, err := isRunFile(members)
	if err != nil {
		return Container{}, err
	}
	var src source
	switch {
	case !isRun:
		src = c.readSource(members)
	case in.Src != nil:
		beside, err := object(in.Src)
		if err != nil {
			return Container{}, fmt.Errorf("%w: src.json: %w", ErrBadFile, err)
		}
		src = c.readSource(beside)
	}
	if err := c.name(in, members, src, isRun); err != nil {
		return Container{}, err
	}
	if isRun {
		err = c.storage(lookup(members, "storage"), src)
	} else {
		c.points(src)
	}
	if err != nil {
		return Container{}, fmt.Errorf("%w: key storage: %w", ErrBadFile, err)
	}
	slices.SortFunc(c.Mounts, func(a, b Mount) int { return strings.Compare(a.Volume, b.Volume) })
	return c.Container, nil
}

// isRunFile distinguishes run.json from src.json by its #spec or its keys.
func isRunFile(members []member) (bool, error) {
	spec, _ := str(lookup(members, "#spec"))
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return lookup(members, k) != nil })
	}
	switch {
	case has("storage"):
		return true, nil
	case has("persistence", "docker_config"):
		return false, nil
	case strings.HasPrefix(spec, "service-manifest-run@"):
		return true, nil
	case strings.HasPrefix(spec, "service-manifest-src@"):
		return false, nil
	}
	return false, fmt.Errorf("%w: neither key storage (run.json) nor key persistence (src.json) found", ErrBadFile)
}

// name sets the container's name: that of the caller, of the file, of the src.json beside it,
// or of the folder, in this order.
func (c *composer) name(in Source, members []member, src source, isRun bool) error {
	c.Name = in.Name
	if value := lookup(members, "name"); c.Name == "" && value != nil {
		name, err := str(value)
		if err != nil {
			return fmt.Errorf("%w: key name: %w", ErrBadFile, err)
		}
		c.Name = name
	}
	if c.Name == "" {
		c.Name = src.name
	}
	if c.Name == "" && in.Folder != "" {
		c.Name = in.Folder
		if isRun { // src.json never has a name
			c.warn("name", "no file has the name of the container; using the name of the folder: %s", in.Folder)
		}
	}
	if c.Name == "" {
		return fmt.Errorf("%w: key name is missing", ErrBadFile)
	}
	if err := volume.ValidateName("container", c.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrBadFile, err)
	}
	return nil
}

// storage reads run.json's map storage.
func (c *composer) storage(text []byte, src source) error {
	if text == nil {
		return nil
	}
	members, err := object(text)
	if err != nil {
		return err
	}
	known := map[string][]point{}
	for _, p := range src.points {
		known[StorageKey(p.key)] = append(known[StorageKey(p.key)], p)
	}
	for _, m := range members {
		c.stored(m, known[m.key])
		delete(known, m.key)
	}
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if p := known[key][0]; p.key != rootVolume {
			c.warn(fmt.Sprintf("src.json %q", p.key), "run.json has no %s: run.json is older than src.json (pvr app install updates it)", key)
		}
	}
	return nil
}

// notPvrs is the message for a storage key that is not from pvr.
const notPvrs = "not a storage key that pvr derives from a mount point: lxc.container.conf has the mount point"

// stored reads one entry of storage. points are the mount points that src.json has for it.
func (c *composer) stored(m member, points []point) {
	entry := fmt.Sprintf("storage %q", m.key)
	v, notes, err := readVolume(m, c.set.file)
	for _, note := range notes {
		c.warn(entry, "%s", note)
	}
	overlay := strings.HasPrefix(m.key, overlayPrefix)
	pvrs := overlay || strings.HasPrefix(m.key, storagePrefix)
	switch {
	case m.key == rootVolume:
		if err != nil || v.Persistence != volume.Boot && v.Persistence != "" {
			c.root(entry)
		}
	case err != nil && !pvrs:
		c.leave(entry, notPvrs+" (%v)", err)
	case err != nil:
		c.leave(entry, "%v", err)
	case v.Persistence == "": // no volume for Pantavisor either
	case !pvrs:
		c.leave(entry, notPvrs)
	default:
		mount := Mount{Volume: v.Name, Overlay: overlay, Options: options(v)}
		if mount.Target, mount.Guessed, err = c.find(entry, m.key, points); err != nil {
			c.leave(entry, "%v", err)
			return
		}
		c.add(entry, mount)
	}
}

// find is the mount point of a storage key: that of src.json, else a guess, which a key
// with one part only is not.
func (c *composer) find(entry, key string, points []point) (at string, guessed bool, err error) {
	if len(points) > 0 {
		if len(points) > 1 {
			c.warn(entry, "src.json has %d mount points with this storage key, %q and %q; using the first", len(points), points[0].key, points[1].key)
		}
		at, err = target(points[0].key)
		return at, len(points) > 1, err
	}
	rest, ok := strings.CutPrefix(key, overlayPrefix)
	if !ok {
		rest = strings.TrimPrefix(key, storagePrefix)
	}
	rest = strings.TrimPrefix(rest, "-")
	if at = path.Clean("/" + strings.ReplaceAll(rest, "-", "/")); at == "/" {
		return "", false, errors.New("storage key has no mount point")
	}
	return at, strings.Contains(rest, "-"), nil
}

// root warns of a persistent root of the container: docker keeps it with the container.
func (c *composer) root(entry string) {
	c.warn(entry, "root of the container: docker keeps its data until the container is removed")
}

// points makes the mounts of src.json.
func (c *composer) points(src source) {
	for _, p := range src.points {
		entry := fmt.Sprintf("persistence %q", p.key)
		if p.volume {
			entry = fmt.Sprintf("docker_config.Volumes %q", p.key)
		}
		mount, err := c.point(p)
		switch {
		case p.key == rootVolume && (err != nil || mount.Options["persistence"] != string(volume.Boot)):
			c.root(entry)
		case p.key == rootVolume:
		case err != nil:
			c.leave(entry, "%v", err)
		default:
			c.add(entry, mount)
		}
	}
}

// point reads one "MOUNT POINT": "TYPE[@DISK]" of src.json.
func (c *composer) point(p point) (m Mount, err error) {
	if p.err != nil {
		return Mount{}, p.err
	}
	kind, disk, err := volume.ParsePersistence(p.text)
	if err != nil {
		return Mount{}, err
	}
	v := Volume{Name: StorageKey(p.key), Persistence: kind}
	if err := volume.ValidateName("volume", v.Name); err != nil {
		return Mount{}, err
	}
	if v.Disk, err = c.set.file.diskOf(disk, disk != ""); err != nil {
		return Mount{}, err
	}
	m = Mount{Volume: v.Name, Overlay: strings.HasPrefix(p.key, overlayMark), Options: options(v)}
	m.Target, err = target(p.key)
	return m, err
}

func options(v Volume) map[string]string {
	o := map[string]string{"persistence": string(v.Persistence)}
	if v.Disk != "" {
		o["disk"] = v.Disk
	}
	return o
}

// add adds a mount under the volume's name in docker, where volumes of all containers share
// one name space. On the disk the volume keeps its own name, below its platform.
func (c *composer) add(entry string, m Mount) {
	m.Volume = c.Name + "." + m.Volume
	if err := volume.ValidateName("volume", m.Volume); err != nil {
		c.leave(entry, "%v", err)
		return
	}
	for _, other := range c.Mounts {
		if other.Volume == m.Volume || other.Target == m.Target {
			c.leave(entry, "%s at %s: volume %s at %s has the same name or mount point", m.Volume, m.Target, other.Volume, other.Target)
			return
		}
	}
	if d, ok := c.set.file.Find(m.Options["disk"]); ok && m.Options["disk"] != "" {
		m.Options["platform"] = c.Name
		switch {
		case !d.Known():
			c.warn(entry, "disk %s is of type %s, which Pantavisor opens and layervault does not", d.Name, d.Type)
		case d.Fault != nil:
			c.warn(entry, "disk %s cannot be used: %v", d.Name, d.Fault)
		}
	}
	if m.Overlay {
		c.warn(entry, "Pantavisor shows this volume over the image's content at %s; docker copies that content into the volume once, when the volume is new", m.Target)
	}
	c.Mounts = append(c.Mounts, m)
}

// Flags are the options for docker volume create.
func (m Mount) Flags() []string {
	var flags []string
	for _, k := range slices.Sorted(maps.Keys(m.Options)) {
		flags = append(flags, "-o", k+"="+m.Options[k])
	}
	return flags
}

// Note is a remark on a mount for a person, "" for none.
func (m Mount) Note() string {
	if m.Guessed {
		return m.Target + " is derived from the storage key; check src.json if a folder name has a dash"
	}
	return ""
}

// YAML is the container as a part of a compose file.
func (c Container) YAML(driver string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "services:\n  %s:\n    volumes:\n", c.Name)
	for _, m := range c.Mounts {
		if note := m.Note(); note != "" {
			fmt.Fprintf(&b, "      # %s\n", note)
		}
		fmt.Fprintf(&b, "      - type: volume\n        source: %q\n        target: %q\n", m.Volume, m.Target)
	}
	b.WriteString("volumes:\n")
	for _, m := range c.Mounts {
		fmt.Fprintf(&b, "  %q:\n    name: %q\n    driver: %s\n    driver_opts:\n", m.Volume, m.Volume, driver)
		for _, k := range slices.Sorted(maps.Keys(m.Options)) {
			fmt.Fprintf(&b, "      %s: %q\n", k, m.Options[k])
		}
	}
	return b.String()
}
