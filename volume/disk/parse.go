package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/persist"
	"layervault/volume"
)

// maxFile bounds device.json in bytes: a hundred disks are some 30 KiB.
const maxFile = 1 << 20

// maxMiB bounds a crypt disk's size, in MiB: 16 TiB, as for volumes.
const maxMiB = volume.MaxSize >> 20

// ErrBadFile: device.json makes no sense. Every fault is an [EntryError] in it.
var ErrBadFile = errors.New("bad device.json")

// EntryError is one fault of device.json, with the entry it is in.
type EntryError struct {
	Entry string // such as disks[1] "secrets"
	Err   error
}

func (e *EntryError) Error() string { return e.Entry + ": " + e.Err.Error() }
func (e *EntryError) Unwrap() error { return e.Err }

// faults are told in one line.
type faults []error

func (f faults) Error() string {
	words := make([]string, len(f))
	for i, err := range f {
		words[i] = err.Error()
	}
	return strings.Join(words, "; ")
}

func (f faults) Unwrap() []error { return f }

// Type is the type of a disk.
type Type string

// The types that can be opened.
const (
	Directory Type = "directory"
	Versatile Type = "dm-crypt-versatile"
	CAAM      Type = "dm-crypt-caam"
	DCP       Type = "dm-crypt-dcp"
	LUKS      Type = "luks" // ours
)

// otherTypes are Pantavisor's own: a file that has such disks is read, and they are
// listed, but not opened.
var otherTypes = []Type{"swap-disk", "volume-disk", "dual"}

// Mode is which kernel a crypt disk's hardware key belongs to.
type Mode string

// Mainline keys are the kernel's trusted keys. NXP keys are of the vendor's kernel; a
// disk without a mode is one, as all were before modes.
const (
	Mainline Mode = "mainline"
	NXP      Mode = "nxp"
)

// Disk is one disk of device.json.
type Disk struct {
	Name    string
	Aliases []string
	Type    Type
	Mode    Mode // of caam and dcp
	Default bool // for volumes that name no disk

	Dir     string // the directory; of a crypt disk, the folder of image and key
	Image   string // file name
	Size    int64  // bytes of the image
	Key     string // name; the tier of a luks disk
	Format  string // "ext4" or "ext3"
	Options string // of mount -o
	// MigrateKey turns a dcp disk's vendor key into a trusted key.
	MigrateKey bool
}

// IsCrypt says whether the disk is an image.
func (d Disk) IsCrypt() bool { return d.Image != "" }

// Known says whether disks of this type can be opened here.
func (d Disk) Known() bool { return !slices.Contains(otherTypes, d.Type) }

// ImagePath is where the disk's image lies.
func (d Disk) ImagePath() string { return filepath.Join(d.Dir, d.Image) }

// Volume is one entry of device.json's volumes.
type Volume struct {
	Name        string
	Persistence volume.Persistence
	Disk        string // the disk's own name; "" for none
}

// File is what device.json says.
type File struct {
	Disks   []Disk
	Volumes []Volume
}

// Rules bound what a file may say.
type Rules struct {
	// Root is the folder that every disk lies below.
	Root   string
	Layout persist.Layout
}

// Find finds a disk by name or alias.
func (f File) Find(name string) (Disk, bool) {
	for _, d := range f.Disks {
		if d.Name == name || slices.Contains(d.Aliases, name) {
			return d, true
		}
	}
	return Disk{}, false
}

// Default is the disk of volumes that name none: the first that says so.
func (f File) Default() (Disk, bool) {
	for _, d := range f.Disks {
		if d.Default {
			return d, true
		}
	}
	return Disk{}, false
}

// parser collects faults.
type parser struct {
	rules  Rules
	file   File
	faults []error
}

func (p *parser) fault(entry string, format string, args ...any) {
	p.faults = append(p.faults, &EntryError{entry, fmt.Errorf(format, args...)})
}

// Parse reads device.json, or an array of disks alone (disks.json). It looks at nothing
// but the text. The error has every fault.
func Parse(text []byte, rules Rules) (File, error) {
	p := parser{rules: rules}
	if len(text) > maxFile {
		return File{}, fmt.Errorf("%w: longer than %d bytes", ErrBadFile, maxFile)
	}
	if kindOf(text) == "an array" {
		p.disks("disks", text)
	} else {
		p.device(text)
	}
	p.names()
	if len(p.faults) > 0 {
		return File{}, fmt.Errorf("%w: %w", ErrBadFile, faults(p.faults))
	}
	return p.file, nil
}

// device reads the whole of device.json.
func (p *parser) device(text []byte) {
	members, err := object(text)
	if err != nil {
		p.fault("device.json", "%w", err)
		return
	}
	for _, m := range members {
		switch m.key {
		case "disks", "disks_v2", "disks_v3":
			p.disks(m.key, m.value)
		case "groups":
			if _, err := array(m.value); err != nil {
				p.fault(m.key, "%w", err)
			}
		case "network":
			if _, err := object(m.value); err != nil {
				p.fault(m.key, "%w", err)
			}
		case "volumes": // after the disks they name
		default:
			p.fault(fmt.Sprintf("key %q", m.key), "unknown; known are groups, disks, disks_v2, disks_v3, volumes, network")
		}
	}
	for _, m := range members {
		if m.key == "volumes" {
			p.volumes(m.value)
		}
	}
}

func (p *parser) disks(key string, text []byte) {
	entries, err := array(text)
	if err != nil {
		p.fault(key, "%w", err)
		return
	}
	if len(entries) == 0 {
		p.fault(key, "it is empty: leave it out, or describe a disk")
	}
	for i, e := range entries {
		p.disk(fmt.Sprintf("%s[%d]", key, i), e)
	}
}

// diskKeys are the keys of a disk, and which types have each; nil for all.
var diskKeys = map[string][]Type{
	"name": nil, "path": nil, "type": nil, "default": nil, "aliases": nil,
	"options": nil, "mount_options": {Directory, Versatile, CAAM, DCP, LUKS},
	"mode": {CAAM, DCP}, "format": {Versatile, CAAM, DCP, LUKS}, "migrate_keyblob": {DCP},
	"format_options": {}, "provision": {}, "provision_options": {}, "mount_target": {}, "uuid": {}, "disks": {}, "init_order": {},
}

func (p *parser) disk(entry string, text []byte) {
	members, err := object(text)
	if err != nil {
		p.fault(entry, "%w", err)
		return
	}
	raw := map[string]json.RawMessage{}
	for _, m := range members {
		raw[m.key] = m.value
	}
	// The name first: every other fault is told with it.
	var d Disk
	if value, ok := raw["name"]; !ok {
		p.fault(entry, "key name is missing")
	} else if d.Name, err = str(value); err == nil {
		err = volume.ValidateName("disk", d.Name)
	}
	if err != nil {
		p.fault(entry, "key name: %w", err)
	}
	if d.Name != "" {
		entry = fmt.Sprintf("%s %q", entry, d.Name)
	}
	before := len(p.faults)
	value, ok := raw["type"]
	if !ok {
		p.fault(entry, "key type is missing")
		return
	}
	kind, err := str(value)
	d.Type = Type(kind)
	known := []Type{Directory, Versatile, CAAM, DCP, LUKS}
	switch {
	case err != nil:
		p.fault(entry, "key type: %w", err)
		return
	case !d.Known():
		p.file.Disks = append(p.file.Disks, d) // its keys are Pantavisor's to judge
		return
	case !slices.Contains(known, d.Type):
		p.fault(entry, "key type: unknown type %q; known are %v, and Pantavisor's own %v", kind, known, otherTypes)
		return
	}
	for _, m := range members {
		types, known := diskKeys[m.key]
		switch {
		case !known:
			p.fault(entry, "key %q: unknown; known are %s", m.key, strings.Join(sortedKeys(diskKeys), ", "))
		case types != nil && !slices.Contains(types, d.Type):
			p.fault(entry, "key %q: a disk of type %s has none", m.key, d.Type)
		}
	}
	for _, key := range []string{"aliases", "default", "mode", "format", "migrate_keyblob", "options", "mount_options"} {
		value, ok := raw[key]
		if !ok {
			continue
		}
		if err := d.set(key, value); err != nil {
			p.fault(entry, "key %s: %w", key, err)
		}
	}
	if d.Type == CAAM || d.Type == DCP {
		if d.Mode == "" {
			d.Mode = NXP
		}
		if d.MigrateKey && d.Mode != Mainline {
			p.fault(entry, "key migrate_keyblob: it wants mode %s", Mainline)
		}
	}
	if value, ok := raw["path"]; !ok {
		p.fault(entry, "key path is missing")
	} else if err := d.setPath(value, p.rules); err != nil {
		p.fault(entry, "key path: %w", err)
	}
	if len(p.faults) == before {
		p.file.Disks = append(p.file.Disks, d)
	}
}

// set reads one of the keys that may be left out.
func (d *Disk) set(key string, value []byte) error {
	if key == "aliases" {
		list, err := array(value)
		if err != nil {
			return err
		}
		for _, item := range list {
			alias, err := str(item)
			if err == nil {
				err = volume.ValidateName("alias", alias)
			}
			if err != nil {
				return err
			}
			d.Aliases = append(d.Aliases, alias)
		}
		return nil
	}
	text, err := str(value)
	if err != nil {
		return err
	}
	switch key {
	case "default":
		d.Default, err = yes(text)
	case "migrate_keyblob":
		d.MigrateKey, err = yes(text)
	case "mode":
		d.Mode = Mode(text)
		if d.Mode != Mainline && d.Mode != NXP {
			err = fmt.Errorf("%q is neither %s nor %s", text, Mainline, NXP)
		}
	case "format":
		d.Format = text
		if text != "ext4" && text != "ext3" {
			err = fmt.Errorf("%q is neither ext4 nor ext3", text)
		}
	case "options", "mount_options":
		if d.Options != "" {
			return errors.New("options and mount_options are the same: give one")
		}
		d.Options = strings.TrimPrefix(text, "-o ")
		_, err = crypt.ParseMountOptions(d.Options)
	}
	return err
}

// yes reads Pantavisor's way to say true.
func yes(text string) (bool, error) {
	switch text {
	case "yes":
		return true, nil
	case "no", "":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither yes nor no", text)
}

func (d *Disk) setPath(value []byte, rules Rules) error {
	text, err := str(value)
	if err != nil {
		return err
	}
	// Today's caam disks carry this, so that an older Pantavisor keeps off.
	if rest, ok := strings.CutPrefix(text, "-v2 "); ok && d.Type == CAAM {
		text = rest
	}
	if d.Type == Directory {
		d.Dir = strings.TrimSuffix(text, "/")
		return checkDir(d.Dir, rules.Root)
	}
	dir, base := path.Split(text)
	parts := strings.Split(base, ",")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return fmt.Errorf("%q is not FOLDER/IMAGE,SIZE,KEY", text)
	}
	d.Dir, d.Image, d.Key = strings.TrimSuffix(dir, "/"), parts[0], parts[2]
	if err := checkDir(d.Dir, rules.Root); err != nil {
		return err
	}
	for what, name := range map[string]string{"image": d.Image, "key": d.Key} {
		if name == "." || name == ".." || len(name) > 200 || strings.ContainsAny(name, " \"\\") {
			return fmt.Errorf("%s %q is no usable file name", what, name)
		}
	}
	for _, file := range []string{d.Key, d.Key + ".txt", d.Key + ".bb", d.Key + ".init_done", d.Key + ".new"} {
		if d.Image == file || d.Image+".new" == file {
			return fmt.Errorf("image %q and key %q would be one file", d.Image, d.Key)
		}
	}
	mib, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || mib < 1 || mib > maxMiB || strconv.FormatInt(mib, 10) != parts[1] {
		return fmt.Errorf("size %q: it is a number of MiB, 1 to %d", parts[1], int64(maxMiB))
	}
	d.Size = mib << 20
	if d.Format == "" {
		d.Format = "ext4"
	}
	if d.Type == LUKS {
		return d.checkLUKS(rules)
	}
	return nil
}

// checkLUKS wants the image where a rotation of the tier's key finds it.
func (d *Disk) checkLUKS(rules Rules) error {
	tier := persist.Tier(d.Key)
	switch {
	case tier != persist.Vault && tier != persist.Unsealed:
		return fmt.Errorf("key %q: a luks disk's key is its tier, %s or %s", d.Key, persist.Vault, persist.Unsealed)
	case d.Dir != rules.Layout.Disks(tier):
		return fmt.Errorf("the image of a luks disk of tier %s lies in %s", tier, rules.Layout.Disks(tier))
	case d.Size < ext4.MinSize:
		return fmt.Errorf("a luks disk has at least %d MiB", ext4.MinSize>>20)
	case d.Format != "ext4":
		return errors.New("a luks disk holds ext4")
	}
	return volume.ValidateName("image", d.Image)
}

// checkDir wants a folder below root, spelled in one way only.
func checkDir(dir, root string) error {
	switch {
	case !path.IsAbs(dir):
		return fmt.Errorf("%q is not absolute", dir)
	case path.Clean(dir) != dir:
		return fmt.Errorf("%q has empty, . or .. parts: write %q", dir, path.Clean(dir))
	case dir != root && !strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/"):
		return fmt.Errorf("%q lies outside %s, where disks may be (setting diskroot)", dir, root)
	}
	return nil
}

// names checks what disks may not share.
func (p *parser) names() {
	owner, files := map[string]string{}, map[string]string{}
	claim := func(d Disk, what, name string) {
		if other, taken := owner[name]; taken {
			p.fault(fmt.Sprintf("disk %q", d.Name), "%s %q is disk %q's already", what, name, other)
			return
		}
		owner[name] = d.Name
	}
	for _, d := range p.file.Disks { // names before aliases: an alias must be no disk's name
		claim(d, "name", d.Name)
	}
	for _, d := range p.file.Disks {
		for _, a := range d.Aliases {
			claim(d, "alias", a)
		}
		if !d.IsCrypt() {
			continue
		}
		shared := []string{"image " + d.ImagePath(), "image " + filepath.Join(d.Dir, d.Key)}
		if d.Type == LUKS {
			shared = shared[:1] // a tier is the key of many
		}
		for _, file := range shared {
			if other, taken := files[file]; taken && other != d.Name {
				p.fault(fmt.Sprintf("disk %q", d.Name), "it has an image or key file in common with disk %q", other)
				break
			}
			files[file] = d.Name
		}
	}
}

func (p *parser) volumes(text []byte) {
	members, err := object(text)
	if err != nil {
		p.fault("volumes", "%w", err)
		return
	}
	for _, m := range members {
		entry := fmt.Sprintf("volumes %q", m.key)
		v, ok, err := readVolume(m, p.file)
		if err != nil {
			p.fault(entry, "%w", err)
		} else if ok {
			p.file.Volumes = append(p.file.Volumes, v)
		}
	}
}

// readVolume reads one entry of volumes, or of run.json's storage. One without a
// persistence is none.
func readVolume(m member, file File) (v Volume, ok bool, err error) {
	v.Name = m.key
	if err := volume.ValidateName("volume", v.Name); err != nil {
		return v, false, err
	}
	members, err := object(m.value)
	if err != nil {
		return v, false, err
	}
	for _, key := range members {
		if key.key != "disk" && key.key != "persistence" {
			return v, false, fmt.Errorf("key %q: unknown; known are disk, persistence", key.key)
		}
		text, err := str(key.value)
		if err != nil {
			return v, false, fmt.Errorf("key %s: %w", key.key, err)
		}
		if key.key == "disk" {
			d, found := file.Find(text)
			if !found {
				return v, false, fmt.Errorf("key disk: there is no disk %q", text)
			}
			v.Disk = d.Name
			continue
		}
		kind, disk, err := volume.ParsePersistence(text)
		if err == nil && disk != "" {
			err = errors.New("the disk goes into the key disk")
		}
		if err != nil {
			return v, false, fmt.Errorf("key persistence: %w", err)
		}
		v.Persistence = kind
	}
	if d, found := file.Default(); v.Disk == "" && found {
		v.Disk = d.Name
	}
	return v, v.Persistence != "", nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
