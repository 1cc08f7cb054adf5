package disk

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"layervault/volume"
)

// The storage keys that pvr makes: <prefix> and the mount point, each slash a dash.
const (
	storagePrefix = "docker-"
	overlayPrefix = "dockerovl-"
	overlayMark   = "ovl:" // begins a mount point in src.json
)

// rootVolume is the storage key of the container's own root.
const rootVolume = "lxc-overlay"

// StorageKey is the name pvr gives the volume of a mount point: /var/x is docker--var-x,
// and ovl:/var/x is dockerovl--var-x.
func StorageKey(point string) string {
	prefix := storagePrefix
	if rest, ok := strings.CutPrefix(point, overlayMark); ok {
		prefix, point = overlayPrefix, rest
	}
	return prefix + strings.ReplaceAll(strings.TrimSuffix(point, "/"), "/", "-")
}

// target is where in the container a mount point of src.json is: below its root, with or
// without the slash that says so.
func target(point string) (string, error) {
	point = strings.TrimSuffix(strings.TrimPrefix(point, overlayMark), "/")
	at := "/" + strings.TrimPrefix(point, "/")
	if at == "/" || path.Clean(at) != at || strings.ContainsFunc(at, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%q is not a clean path below the root", at)
	}
	return at, nil
}

// source is the content of src.json.
type source struct {
	name   string
	points []point
}

// point is one mount point of src.json.
type point struct {
	key    string // as the file has it, less one slash at its end, as pvr reads it
	text   string // TYPE[@DISK]
	err    error  // why text is none
	volume bool   // of the image, not of the map persistence
}

// readSource reads the volumes of a src.json: the image's own are permanent, unless the map
// persistence has another value (pvr's mergePersistentMaps).
func (c *composer) readSource(members []member) (src source) {
	src.name, _ = str(lookup(members, "name")) // pvr writes none today
	at := map[string]point{}
	image := func(text []byte) {
		for _, m := range c.section("docker_config", text) {
			if m.key != "Volumes" {
				continue
			}
			for _, v := range c.section("docker_config.Volumes", m.value) {
				key := strings.TrimSuffix(v.key, "/")
				at[key] = point{key: key, text: string(volume.Permanent), volume: true}
			}
		}
	}
	image(lookup(members, "docker_config"))
	for _, m := range c.section("persistence", lookup(members, "persistence")) {
		key := strings.TrimSuffix(m.key, "/")
		text, err := str(m.value)
		if before, twice := at[key]; twice && !before.volume {
			c.leave(fmt.Sprintf("persistence %q", m.key), "same mount point as %q except for the slash; pvr may use either", before.key)
			continue
		}
		at[key] = point{key: key, text: text, err: err}
	}
	for _, key := range slices.Sorted(maps.Keys(at)) {
		// One mount point cannot have both: the map was written for this container.
		if over, both := at[overlayMark+key]; both && !over.volume && at[key].volume {
			c.warn(fmt.Sprintf("docker_config.Volumes %q", key), "ignored, replaced by %q", over.key)
			continue
		}
		src.points = append(src.points, at[key])
	}
	return src
}

// section reads an object that may be left out or null.
func (c *composer) section(entry string, text []byte) []member {
	if text == nil || kindOf(text) == "null" {
		return nil
	}
	members, err := object(text)
	if err != nil {
		c.leave(entry, "%v", err)
	}
	return members
}
