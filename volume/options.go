package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/google/uuid"

	"layervault/crypt"
	"layervault/crypt/ext4"
	"layervault/persist"
)

// Persistence is the lifetime of a volume's content, in Pantavisor's words.
type Persistence string

// Permanent content stays. Revision content belongs to the revision that the host runs:
// another revision sees its own. Boot content is empty at the first mount of each boot.
const (
	Permanent Persistence = "permanent"
	Revision  Persistence = "revision"
	Boot      Persistence = "boot"
)

// MaxSize bounds a volume's size in bytes: what ext4 of 4 KiB blocks holds with 32 bit
// block numbers, which every tool can handle.
const MaxSize = 16 << 40

// Options are the choices at the making of a volume. Zero values mean the defaults.
type Options struct {
	Size        int64        `json:"size,omitempty"` // bytes of an image's file system
	Tier        persist.Tier `json:"tier,omitempty"`
	Disk        string       `json:"disk,omitempty"` // of device.json: the volume is a directory of it
	Persistence Persistence  `json:"persistence,omitempty"`
	Platform    string       `json:"platform,omitempty"` // the container it belongs to, on a disk
	Revision    string       `json:"revision,omitempty"` // that it is bound to; "" for the host's
	Cipher      string       `json:"cipher,omitempty"`
	Sector      int          `json:"sector,omitempty"`
	MountOpts   string       `json:"mountopts,omitempty"`
	Inodes      int64        `json:"inodes,omitempty"` // files that an image has room for
}

// Request is a parsed set of docker's -o options: what to make, and under which ID.
type Request struct {
	Options
	UUID       string // "" for a new one
	Generation int64  // -1 for the present one, or 0

	notClear bool // clear=false
}

// The ciphers that volumes may have; see docs/formats.md.
var ciphers = []string{"aes-xts-plain64", "aes-cbc-essiv:sha256", "xchacha12,aes-adiantum-plain64"}

// option reads one option into a request.
type option func(r *Request, value string) error

var options = map[string]option{
	"size": func(r *Request, value string) (err error) {
		r.Size, err = ParseSize(value)
		return err
	},
	"tier": func(r *Request, value string) error {
		switch t := persist.Tier(value); t {
		case persist.Vault, persist.Unsealed, persist.Clear:
			return r.setTier(t)
		}
		return fmt.Errorf("must be %s, %s or %s", persist.Vault, persist.Unsealed, persist.Clear)
	},
	"clear": func(r *Request, value string) error {
		is, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("must be true or false: %w", err)
		}
		if is {
			return r.setTier(persist.Clear)
		}
		r.notClear = true
		return nil
	},
	"uuid": func(r *Request, value string) error {
		u, err := uuid.Parse(value)
		if err != nil {
			return err
		}
		r.UUID = u.String()
		return nil
	},
	"generation": func(r *Request, value string) (err error) {
		if r.Generation, err = strconv.ParseInt(value, 10, 64); err != nil || r.Generation < 0 {
			return fmt.Errorf("must be a number, 0 or more")
		}
		return nil
	},
	"disk": func(r *Request, value string) error { return r.setDisk(value) },
	"persistence": func(r *Request, value string) error {
		kind, disk, err := ParsePersistence(value)
		if err != nil {
			return err
		}
		r.Persistence = kind
		if disk == "" {
			return nil
		}
		return r.setDisk(disk)
	},
	"platform": func(r *Request, value string) error {
		r.Platform = value
		return ValidateName("platform", value)
	},
	"revision": func(r *Request, value string) error {
		r.Revision = value
		return ValidateName("revision", value)
	},
	"cipher": func(r *Request, value string) error {
		if !slices.Contains(ciphers, value) {
			return fmt.Errorf("must be one of %s", strings.Join(ciphers, ", "))
		}
		r.Cipher = value
		return nil
	},
	"sector": func(r *Request, value string) (err error) {
		if r.Sector, err = strconv.Atoi(value); err != nil || r.Sector != 512 && r.Sector != 4096 {
			return fmt.Errorf("must be 512 or 4096")
		}
		return nil
	},
	"inodes": func(r *Request, value string) (err error) {
		if r.Inodes, err = strconv.ParseInt(value, 10, 64); err != nil || r.Inodes < ext4.LeastInodes || r.Inodes > ext4.MostInodes {
			return fmt.Errorf("must be a number from %d to %d", ext4.LeastInodes, ext4.MostInodes)
		}
		return nil
	},
	"mountopts": func(r *Request, value string) error {
		_, err := crypt.ParseMountOptions(value)
		r.MountOpts = value
		return err
	},
}

// OptionNames lists the options that ParseOptions knows.
func OptionNames() []string { return slices.Sorted(maps.Keys(options)) }

// ParseChange reads options that change a volume in its next generation. Other options have
// their zero value.
func ParseChange(opts map[string]string) (Options, error) {
	r, err := parse(opts)
	if err == nil && (r.UUID != "" || r.Generation >= 0) {
		err = fmt.Errorf("%w: uuid and generation cannot be changed", ErrBadOption)
	}
	return r.Options, err
}

// ParseOptions reads docker's -o options.
func ParseOptions(opts map[string]string) (Request, error) {
	r, err := parse(opts)
	if err != nil {
		return Request{}, err
	}
	if r.Persistence == "" {
		r.Persistence = Permanent
	}
	if r.Disk == "" && r.Tier == "" {
		r.Tier = persist.Vault
	}
	err = r.check()
	r.notClear = false
	return r, err
}

func parse(opts map[string]string) (Request, error) {
	r := Request{Generation: -1}
	for _, name := range slices.Sorted(maps.Keys(opts)) { // the same error each time
		read, ok := options[name]
		if !ok {
			return Request{}, fmt.Errorf("%w %q; known options: %s", ErrUnknownOption, name, strings.Join(OptionNames(), ", "))
		}
		if err := read(&r, strings.TrimSpace(opts[name])); err != nil {
			return Request{}, fmt.Errorf("%w %s=%q: %w", ErrBadOption, name, opts[name], err)
		}
	}
	return r, nil
}

// ParseSize reads a size with a unit, such as 20G.
func ParseSize(text string) (int64, error) {
	size, err := units.RAMInBytes(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: must be a number with a unit, such as 20G: %w", ErrBadOption, err)
	case size < ext4.MinSize || size > MaxSize:
		return 0, fmt.Errorf("%w: must be %s to %s", ErrBadOption, units.BytesSize(ext4.MinSize), units.BytesSize(MaxSize))
	}
	return size / ext4.BlockSize * ext4.BlockSize, nil
}

// ParsePersistence reads TYPE or TYPE@DISK, as Pantavisor does: what stands before the
// first @ and after the last one, and one slash at the end is no part of it.
func ParsePersistence(text string) (kind Persistence, disk string, err error) {
	text = strings.TrimSuffix(text, "/")
	first, _, found := strings.Cut(text, "@")
	if found {
		disk = text[strings.LastIndex(text, "@")+1:]
		if disk == "" {
			return "", "", fmt.Errorf("%w: no disk after @ in %q", ErrBadOption, text)
		}
	}
	switch kind = Persistence(first); kind {
	case Permanent, Revision, Boot:
		return kind, disk, nil
	}
	return "", "", fmt.Errorf("%w: %q is not %s, %s or %s", ErrBadOption, first, Permanent, Revision, Boot)
}

func (r *Request) setTier(t persist.Tier) error {
	if r.Tier != "" && r.Tier != t {
		return fmt.Errorf("conflicts with tier=%s", r.Tier)
	}
	r.Tier = t
	return nil
}

func (r *Request) setDisk(name string) error {
	if r.Disk != "" && r.Disk != name {
		return fmt.Errorf("conflicts with disk=%s", r.Disk)
	}
	r.Disk = name
	return ValidateDiskName(name)
}

// check rejects combinations of options that conflict.
func (r *Request) check() error {
	imageOnly := map[string]bool{
		"size": r.Size != 0, "cipher": r.Cipher != "", "sector": r.Sector != 0, "mountopts": r.MountOpts != "", "inodes": r.Inodes != 0,
	}
	for _, name := range slices.Sorted(maps.Keys(imageOnly)) {
		if why := kindOf(r.Options).notImage(r.Options); imageOnly[name] && why != "" {
			return fmt.Errorf("%w %s: %s", ErrBadOption, name, why)
		}
	}
	// Without a size the store's default counts; image.create checks that.
	if err := ext4.CheckInodes(r.Inodes, cmp.Or(r.Size, MaxSize)); err != nil {
		return fmt.Errorf("%w inodes: %w", ErrBadOption, err)
	}
	switch {
	case r.notClear && r.Tier == persist.Clear:
		return fmt.Errorf("%w clear=false: conflicts with tier=%s", ErrBadOption, r.Tier)
	case r.Disk != "" && r.Tier != "":
		return fmt.Errorf("%w tier=%s: set by disk %s", ErrBadOption, r.Tier, r.Disk)
	case r.Platform != "" && r.Disk == "":
		return fmt.Errorf("%w platform: only for volumes with disk=", ErrBadOption)
	case r.Revision != "" && r.Persistence != Revision:
		return fmt.Errorf("%w revision: only with persistence=%s", ErrBadOption, Revision)
	}
	return nil
}
