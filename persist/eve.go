package persist

import "regexp"

// The names of volumes in a folder of volumes: <uuid>#<generation> is ours, EVE's own have
// the format of their content after it (pillar, volumemgr: PathName): VM disks in other
// formats than ours, folders of containers.
var (
	volumeName = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}#[0-9]+$`)
	eveName    = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}#[0-9]+\.(raw|qcow|qcow2|vhd|vmdk|ova|vhdx|container|iso)$`)
)

// IsVolumeName says whether a file in a folder of volumes is named as one of ours.
func IsVolumeName(name string) bool { return volumeName.MatchString(name) }

// IsEVEName says whether a file or folder in a folder of volumes is EVE's own, whatever is
// in it: a guest's disk may be a LUKS image itself.
func IsEVEName(name string) bool { return eveName.MatchString(name) }
