package convert

import (
	"regexp"
	"strconv"
	"strings"
)

// The names of old volumes (pillar, upgradeconverter: parseAppRwVolumeName): the digest of the
// content, the application, the purge counter where it is not 0, and for a file its format.
var (
	oldFile   = regexp.MustCompile(`^([0-9A-Fa-f]{64})-([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})(?:#([0-9]{1,10}))?\.([A-Za-z0-9]+)$`)
	oldFolder = regexp.MustCompile(`^([0-9A-Fa-f]{64})-([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})(?:#([0-9]{1,10}))?$`)
	shaName   = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

// formats are EVE's formats of volumes, by the number of enum Format. A folder is a container.
var formats = map[string]uint64{
	"raw": 1, "qcow": 2, "qcow2": 3, "vhd": 4, "vmdk": 5, "ova": 6, "vhdx": 7, container: 8, "iso": 9,
}

const container = "container"

// oldName is the name of an old volume.
type oldName struct {
	sha, app string // in lower case
	purge    uint32
	format   string
}

func parseOld(name string, folder bool) (oldName, bool) {
	form, format := oldFile, ""
	if folder {
		form, format = oldFolder, container
	}
	m := form.FindStringSubmatch(name)
	if m == nil {
		return oldName{}, false
	}
	o := oldName{sha: strings.ToLower(m[1]), app: strings.ToLower(m[2]), format: format}
	if m[3] != "" {
		n, err := strconv.ParseUint(m[3], 10, 32)
		if err != nil {
			return oldName{}, false
		}
		o.purge = uint32(n)
	}
	if !folder {
		o.format = strings.ToLower(m[4])
		if _, known := formats[o.format]; !known || o.format == container {
			return oldName{}, false
		}
	}
	return o, true
}
