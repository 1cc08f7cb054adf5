package disk

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"layervault/crypt"
	"layervault/volume"
)

// maxMiB bounds a crypt disk's size, in MiB: 16 TiB, as for volumes.
const maxMiB = volume.MaxSize >> 20

// maxFileName bounds the names of image and key in bytes: with the longest suffix of ours
// they stay below the kernel's 255.
const maxFileName = 200

// The file systems of crypt disks. Pantavisor's script makes ext4 whatever format says.
const defaultFormat = "ext4"

var formats = []string{defaultFormat, "ext3"}

func (e diskEntry) format() string {
	value := lookup(e.members, "format")
	if value == nil {
		return defaultFormat
	}
	text, err := str(value)
	if err == nil && !slices.Contains(formats, text) {
		err = fmt.Errorf("%q is not one of %v", text, formats)
	}
	if err != nil {
		e.warn("key format: %v; a new image gets %s", err, defaultFormat)
		return defaultFormat
	}
	return text
}

// options reads mount options: options of Pantavisor's documentation, mount_options of its
// source. An option that is not known is left out, as Pantavisor leaves out all.
func (p *parser) options(entry string, members []member) string {
	var taken []string
	key := ""
	for _, k := range []string{"mount_options", "options"} {
		value := lookup(members, k)
		if value == nil {
			continue
		}
		if key != "" {
			p.warn(entry, "key %s: ignored, key %s is set too", k, key)
			continue
		}
		key = k
		text, err := str(value)
		if err != nil {
			p.warn(entry, "key %s: ignored: %v", k, err)
			continue
		}
		for word := range strings.SplitSeq(strings.TrimPrefix(text, "-o "), ",") {
			option := mountOption(strings.TrimSpace(word))
			if option == "" {
				continue
			}
			if _, err := crypt.ParseMountOptions(option); err != nil {
				p.warn(entry, "key %s: %q ignored: %v", k, word, err)
				continue
			}
			taken = append(taken, option)
		}
	}
	return strings.Join(taken, ",")
}

// mountOption turns a flag of mount(2), as Pantavisor's mount_options may have it, into
// the option of mount(8).
func mountOption(word string) string {
	flag, ok := strings.CutPrefix(word, "MS_")
	if !ok {
		return word
	}
	switch flag {
	case "RDONLY":
		return "ro"
	case "SYNCHRONOUS":
		return "sync"
	}
	return strings.ToLower(flag)
}

// splitImage reads the path of a crypt disk: FOLDER/IMAGE,MiB,KEY.
func splitImage(d *Disk, text string, rules Rules) error {
	dir, base := path.Split(text)
	parts := strings.Split(base, ",")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return fmt.Errorf("key path: %q is not FOLDER/IMAGE,SIZE,KEY", text)
	}
	d.Dir, d.Image, d.Key = strings.TrimSuffix(dir, "/"), parts[0], parts[2]
	if err := checkDir(d.Dir, rules.Root); err != nil {
		return err
	}
	for _, name := range []string{d.Image, d.Key} {
		if name == "." || name == ".." || len(name) > maxFileName || strings.ContainsAny(name, " \"\\") {
			return fmt.Errorf("key path: %q is not a usable file name", name)
		}
	}
	for _, file := range []string{d.Key, d.Key + rawSuffix, d.Key + blobSuffix, d.Key + ".init_done", d.Key + ".new"} {
		if d.Image == file || d.Image+".new" == file {
			return fmt.Errorf("key path: image %q and key %q are the same file", d.Image, d.Key)
		}
	}
	mib, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || mib < 1 || mib > maxMiB || strconv.FormatInt(mib, 10) != parts[1] {
		return fmt.Errorf("key path: size %q: expected a number of MiB, 1 to %d", parts[1], int64(maxMiB))
	}
	d.Size = mib << 20
	return nil
}

// checkDir wants a folder below root, spelled in one way only.
func checkDir(dir, root string) error {
	switch {
	case !path.IsAbs(dir):
		return fmt.Errorf("key path: %q is not absolute", dir)
	case path.Clean(dir) != dir:
		return fmt.Errorf("key path: %q has empty, . or .. parts, must be %q", dir, path.Clean(dir))
	case dir != root && !strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/"):
		return fmt.Errorf("key path: %q is outside %s (setting diskroot)", dir, root)
	}
	return nil
}
