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

// Mount is one volume of a container, as docker is to be told of it.
type Mount struct {
	Volume  string            // docker's name
	Target  string            // in the container; "" where run.json alone cannot tell
	Options map[string]string // of docker volume create
	// Guessed: the target was worked out from a storage key, in which a dash may have been
	// a slash.
	Guessed bool
}

// Container is what run.json and src.json say of a container's volumes.
type Container struct {
	Name   string
	Mounts []Mount
}

// storagePrefix begins the storage key of a volume that the image or src.json names.
const storagePrefix = "docker-"

// StorageKey is the name pvr gives the volume of a mount point: /var/x is docker--var-x.
func StorageKey(target string) string {
	return storagePrefix + strings.ReplaceAll(strings.TrimSuffix(target, "/"), "/", "-")
}

// Compose reads a container's run.json (its map storage) or src.json (its map
// persistence, and the image's volumes, if they are told), and says which volumes docker
// is to give it. src, when it is not nil, is the src.json beside a run.json: it knows the
// mount points.
func (s *Set) Compose(run, src []byte) (Container, error) {
	if s.bad != nil {
		return Container{}, s.bad
	}
	members, err := object(run)
	if err != nil {
		return Container{}, fmt.Errorf("%w: %w", ErrBadFile, err)
	}
	c := Container{}
	targets := map[string]string{} // by storage key
	if src != nil {
		if targets, err = targetsOf(src); err != nil {
			return Container{}, fmt.Errorf("%w: src.json: %w", ErrBadFile, err)
		}
	}
	found := false
	for _, m := range members {
		switch m.key {
		case "name":
			if c.Name, err = str(m.value); err == nil {
				err = volume.ValidateName("container", c.Name)
			}
		case "storage":
			found = true
			err = s.storage(&c, m.value, targets)
		case "persistence":
			found = true
			err = s.persistence(&c, m.value)
		}
		if err != nil {
			return Container{}, fmt.Errorf("%w: key %s: %w", ErrBadFile, m.key, err)
		}
	}
	switch {
	case !found:
		return Container{}, fmt.Errorf("%w: it has neither storage (run.json) nor persistence (src.json)", ErrBadFile)
	case c.Name == "":
		return Container{}, fmt.Errorf("%w: key name is missing: which container is it", ErrBadFile)
	}
	for i := range c.Mounts {
		c.Mounts[i].finish(c.Name)
	}
	slices.SortFunc(c.Mounts, func(a, b Mount) int { return strings.Compare(a.Volume, b.Volume) })
	return c, nil
}

// targetsOf reads the mount points that src.json names.
func targetsOf(src []byte) (map[string]string, error) {
	members, err := object(src)
	if err != nil {
		return nil, err
	}
	targets := map[string]string{}
	for _, m := range members {
		if m.key != "persistence" {
			continue
		}
		entries, err := object(m.value)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			targets[StorageKey(e.key)] = strings.TrimSuffix(e.key, "/")
		}
	}
	return targets, nil
}

func (s *Set) storage(c *Container, text []byte, targets map[string]string) error {
	members, err := object(text)
	if err != nil {
		return err
	}
	for _, m := range members {
		v, ok, err := readVolume(m, s.file)
		if err != nil {
			return fmt.Errorf("%q: %w", m.key, err)
		}
		if !ok || !strings.HasPrefix(v.Name, storagePrefix) {
			continue // no persistence, or the container's own root (lxc-overlay): docker's layers are that
		}
		mount := Mount{Volume: v.Name, Target: targets[v.Name], Options: options(v)}
		if mount.Target == "" {
			// The key is the path with every slash a dash.
			mount.Target = path.Clean("/" + strings.ReplaceAll(strings.TrimPrefix(v.Name, storagePrefix), "-", "/"))
			mount.Guessed = true
		}
		c.Mounts = append(c.Mounts, mount)
	}
	return nil
}

func (s *Set) persistence(c *Container, text []byte) error {
	members, err := object(text)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range members {
		mount, err := s.entry(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", m.key, err))
			continue
		}
		if mount.Volume != "" {
			c.Mounts = append(c.Mounts, mount)
		}
	}
	return errors.Join(errs...)
}

// entry reads one "MOUNT POINT": "TYPE[@DISK]" of src.json.
func (s *Set) entry(m member) (Mount, error) {
	text, err := str(m.value)
	if err != nil {
		return Mount{}, err
	}
	kind, disk, err := volume.ParsePersistence(text)
	if err != nil {
		return Mount{}, err
	}
	target := strings.TrimSuffix(m.key, "/")
	if target == "lxc-overlay" {
		return Mount{}, nil // the container's own root
	}
	if !path.IsAbs(target) || path.Clean(target) != target {
		return Mount{}, fmt.Errorf("%q is no clean absolute path", m.key)
	}
	v := Volume{Name: StorageKey(target), Persistence: kind}
	if err := volume.ValidateName("volume", v.Name); err != nil {
		return Mount{}, err
	}
	if disk != "" {
		d, err := s.Find(disk)
		if err != nil {
			return Mount{}, err
		}
		v.Disk = d.Name
	} else if d, ok := s.file.Default(); ok {
		v.Disk = d.Name
	}
	return Mount{Volume: v.Name, Target: target, Options: options(v)}, nil
}

func options(v Volume) map[string]string {
	o := map[string]string{"persistence": string(v.Persistence)}
	if v.Disk != "" {
		o["disk"] = v.Disk
	}
	return o
}

// finish gives the volume the name that docker knows it by: volumes of all containers
// share one set of names there. On the disk it keeps its own, below its platform.
func (m *Mount) finish(platform string) {
	m.Volume = platform + "." + m.Volume
	if m.Options["disk"] != "" {
		m.Options["platform"] = platform
	}
}

// Flags are the options for docker volume create.
func (m Mount) Flags() []string {
	var flags []string
	for _, k := range slices.Sorted(maps.Keys(m.Options)) {
		flags = append(flags, "-o", k+"="+m.Options[k])
	}
	return flags
}

// YAML is the container as a part of a compose file.
func (c Container) YAML(driver string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "services:\n  %s:\n    volumes:\n", c.Name)
	for _, m := range c.Mounts {
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
