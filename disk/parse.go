package disk

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"layervault/volume"
)

// Pantavisor's own parser (parser/parser_system1.c, disk/disk.c) ignores unknown entries, and
// finds invalid disks when it mounts them. This parser has the same result, with messages: an
// entry that Pantavisor rejects makes the file invalid; an entry that Pantavisor ignores is a
// warning; a disk that only layervault cannot use is faulty. Three rules are stricter on
// purpose: duplicate keys, duplicate names, and an unknown persistence (Pantavisor takes it
// for boot, which deletes).

// maxFile bounds device.json in bytes: a hundred disks are some 30 KiB.
const maxFile = 1 << 20

// parser collects faults and warnings.
type parser struct {
	rules    Rules
	file     File
	faults   []error // of the file as a whole
	unusable []error // of single disks
}

func (p *parser) fault(entry string, format string, args ...any) {
	p.faults = append(p.faults, &EntryError{entry, fmt.Errorf(format, args...)})
}

func (p *parser) warn(entry string, format string, args ...any) {
	p.file.Warnings = append(p.file.Warnings, Warning{entry, fmt.Sprintf(format, args...)})
}

// parse reads device.json, or an array of disks alone (disks.json), whose name is list. It
// looks at nothing but the text. An error has every fault; without one, File.Warnings has
// what was passed over and Disk.Fault why a disk cannot be used.
func parse(text []byte, rules Rules, list string) (File, error) {
	p := parser{rules: rules}
	if len(text) > maxFile {
		return File{}, fmt.Errorf("%w: longer than %d bytes", ErrBadFile, maxFile)
	}
	if kindOf(text) == "an array" {
		p.disks(list, text)
		p.names()
	} else {
		p.device(text)
	}
	if len(p.faults) > 0 {
		return File{}, fmt.Errorf("%w: %w", ErrBadFile, faults(append(p.faults, p.unusable...)))
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
				p.warn(m.key, "%v", err)
			}
		case "volumes": // after the disks they name
		case "remount", "#spec": // of other versions of Pantavisor; nothing here
		default:
			p.warn(fmt.Sprintf("key %q", m.key), "unknown, ignored; known keys: groups, disks, disks_v2, disks_v3, volumes, network, remount")
		}
	}
	p.names()
	if volumes := lookup(members, "volumes"); volumes != nil {
		p.volumes(volumes)
	}
}

func (p *parser) disks(key string, text []byte) {
	entries, err := array(text)
	if err != nil {
		p.fault(key, "%w", err)
		return
	}
	if len(entries) == 0 {
		p.fault(key, "list is empty")
	}
	for i, e := range entries {
		p.disk(fmt.Sprintf("%s[%d]", key, i), e, key == lenientList)
	}
}

// lenientList is the list, in device.json or a file of its own, whose disks may have types of
// a newer Pantavisor.
const lenientList = "disks_v3"

// commonKeys are the keys that a disk of each type may have.
var commonKeys = []string{"name", "path", "type", "default", "aliases", "options", "mount_options"}

// otherKeys are the keys that only Pantavisor's own types have.
var otherKeys = []string{"format_options", "provision", "provision_options", "mount_target", "uuid", "disks", "init_order"}

// diskKeys are all the keys of a disk, sorted.
func diskKeys() []string {
	keys := slices.Concat(commonKeys, otherKeys)
	for _, k := range kinds {
		keys = append(keys, k.keys()...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// disk reads one disk. lenient is for the list that newer files use: a type that is not
// known is passed over with its disk.
func (p *parser) disk(entry string, text []byte, lenient bool) {
	members, err := object(text)
	if err != nil {
		p.fault(entry, "%w", err)
		return
	}
	var d Disk
	// The name first: every other fault has it.
	if value := lookup(members, "name"); value == nil {
		p.fault(entry, "key name is missing")
	} else if d.Name, err = str(value); err != nil {
		p.fault(entry, "key name: %w", err)
	} else if d.Name == "" {
		p.fault(entry, "key name: empty")
	}
	if d.Name != "" {
		entry = fmt.Sprintf("%s %q", entry, d.Name)
	}
	if d.Type, err = diskType(members); err != nil {
		if lenient {
			p.warn(entry, "%v; the disk is skipped", err)
		} else {
			p.fault(entry, "%w", err)
		}
		return
	}
	if d.Name == "" {
		return
	}
	p.shared(entry, &d, members)
	if d.Known() {
		err := volume.ValidateDiskName(d.Name)
		if err == nil {
			err = p.own(entry, &d, members)
		}
		if err != nil {
			p.refuse(entry, &d, err)
		}
	}
	p.file.Disks = append(p.file.Disks, d)
}

// refuse marks one disk as faulty.
func (p *parser) refuse(entry string, d *Disk, err error) {
	fault := &EntryError{entry, err}
	p.unusable = append(p.unusable, fault)
	p.warn(entry, "disk cannot be used: %v", err)
	d.Fault = fmt.Errorf("%w: %w", ErrBadFile, fault)
}

func diskType(members []member) (Type, error) {
	value := lookup(members, "type")
	if value == nil {
		return "", errors.New("key type is missing")
	}
	text, err := str(value)
	if err != nil {
		return "", fmt.Errorf("key type: %w", err)
	}
	if Type(text).kind() == nil && !slices.Contains(otherTypes, Type(text)) {
		return "", fmt.Errorf("key type: unknown type %q; known types: %v, and Pantavisor's own %v", text, knownTypes(), otherTypes)
	}
	return Type(text), nil
}

// shared reads the keys that disks of all types have, also those that only Pantavisor opens: a
// volume may name them.
func (p *parser) shared(entry string, d *Disk, members []member) {
	d.Default = diskEntry{p, entry, members}.yes("default")
	value := lookup(members, "aliases")
	if value == nil {
		return
	}
	list, err := array(value)
	if err != nil {
		p.warn(entry, "key aliases: ignored: %v", err)
	}
	for _, item := range list {
		alias, err := str(item)
		switch {
		case err == nil && alias == "":
			p.fault(entry, "key aliases: an empty alias")
			continue
		case err == nil:
			err = volume.ValidateDiskName(alias)
		}
		if err != nil {
			p.warn(entry, "key aliases: ignored: %v", err)
		} else if !d.named(alias) { // not its own name, and no duplicate
			d.Aliases = append(d.Aliases, alias)
		}
	}
}

// own reads the keys of a disk that layervault opens. The error is the reason why it cannot.
func (p *parser) own(entry string, d *Disk, members []member) error {
	typ := d.Type.kind()
	for _, m := range members {
		switch {
		case !slices.Contains(diskKeys(), m.key):
			p.warn(entry, "key %q: unknown, ignored; known keys: %s", m.key, strings.Join(diskKeys(), ", "))
		case !slices.Contains(commonKeys, m.key) && !slices.Contains(typ.keys(), m.key):
			p.warn(entry, "key %q: ignored for type %s", m.key, d.Type)
		}
	}
	if err := typ.read(diskEntry{p, entry, members}, d); err != nil {
		return err
	}
	d.Options = p.options(entry, members)
	if lookup(members, "path") == nil {
		return errors.New("key path is missing")
	}
	path, err := diskEntry{p, entry, members}.text("path")
	if err != nil {
		return err
	}
	return typ.check(d, path, p.rules)
}

// names rejects names, aliases and files that two disks share.
func (p *parser) names() {
	owner, files := map[string]string{}, map[string]string{}
	claim := func(d Disk, what, name string) {
		if other, taken := owner[name]; taken {
			p.fault(fmt.Sprintf("disk %q", d.Name), "%s %q is already used by disk %q", what, name, other)
			return
		}
		owner[name] = d.Name
	}
	for _, d := range p.file.Disks { // names before aliases: an alias must be no disk's name
		claim(d, "name", d.Name)
	}
	for i, d := range p.file.Disks {
		for _, a := range d.Aliases {
			claim(d, "alias", a)
		}
		if !d.Known() || d.Fault != nil {
			continue
		}
		own := d.Type.kind().files(d)
		if at := slices.IndexFunc(own, func(file string) bool { return files[file] != "" }); at >= 0 {
			p.refuse(fmt.Sprintf("disk %q", d.Name), &p.file.Disks[i], fmt.Errorf("image or key file %s is also used by disk %q", own[at], files[own[at]]))
			continue
		}
		for _, file := range own {
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
		v, notes, err := readVolume(m, p.file)
		for _, note := range notes {
			p.warn(entry, "%s", note)
		}
		switch {
		case err != nil:
			p.warn(entry, "left out: %v", err)
		case v.Persistence != "":
			p.file.Volumes = append(p.file.Volumes, v)
		}
	}
}

// readVolume reads one entry of volumes, or of run.json's storage. One without a
// persistence is none. notes are what was passed over in it.
func readVolume(m member, file File) (v Volume, notes []string, err error) {
	v.Name = m.key
	members, err := object(m.value)
	if err != nil {
		return v, nil, err
	}
	known := map[string]string{"disk": "", "persistence": ""}
	for _, key := range members {
		if _, ok := known[key.key]; !ok {
			notes = append(notes, fmt.Sprintf("key %q: unknown, ignored; known keys: disk, persistence", key.key))
			continue
		}
		text, err := str(key.value)
		if err != nil {
			return v, notes, fmt.Errorf("key %s: %w", key.key, err)
		}
		known[key.key] = text
	}
	if lookup(members, "persistence") == nil {
		return v, notes, nil
	}
	if err := volume.ValidateName("volume", v.Name); err != nil {
		return v, notes, err
	}
	kind, disk, err := volume.ParsePersistence(known["persistence"])
	if err == nil && disk != "" {
		err = errors.New("must not name a disk; key disk does")
	}
	if err != nil {
		return v, notes, fmt.Errorf("key persistence: %w", err)
	}
	if v.Disk, err = file.diskOf(known["disk"], lookup(members, "disk") != nil); err != nil {
		return v, notes, fmt.Errorf("key disk: %w", err)
	}
	v.Persistence = kind
	return v, notes, nil
}

// diskOf finds the disk of a volume: the one it names, else the default disk, else none.
func (f File) diskOf(name string, named bool) (string, error) {
	if named {
		d, ok := f.Find(name)
		if !ok {
			return "", fmt.Errorf("%w: %q; known disks: %v", ErrNotFound, name, f.names())
		}
		return d.Name, nil
	}
	d, _ := f.Default()
	return d.Name, nil
}

// names are all names of disks, aliases among them.
func (f File) names() []string {
	all := map[string]bool{}
	for _, d := range f.Disks {
		all[d.Name] = true
		for _, a := range d.Aliases {
			all[a] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
