package persist

import "regexp"

// Names in a folder of volumes: <uuid>#<generation> is layervault's; EVE's own have the
// format of their content after it (pillar, volumemgr: PathName): VM disks in other
// formats, folders of containers.
var (
	volumeName = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}#[0-9]+$`)
	eveName    = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}#[0-9]+\.(raw|qcow|qcow2|vhd|vmdk|ova|vhdx|container|iso)$`)
)

// IsVolumeName reports whether a file in a folder of volumes has the name of a
// layervault volume.
func IsVolumeName(name string) bool { return volumeName.MatchString(name) }

// IsEVEName reports whether a file or folder in a folder of volumes is EVE's own, for any
// content: a guest's disk may be a LUKS image itself.
func IsEVEName(name string) bool { return eveName.MatchString(name) }
