package persist

import (
	"io/fs"
	"path/filepath"
	"slices"
)

// Area names a folder of the vault that lies on an encrypted image of its own.
type Area string

// The areas. What is fetched goes through them in this order: Downloader has what is being
// received, Verifier what is being verified and what was, and Case what can be used, as
// containerd names it.
const (
	Downloader Area = "downloader"
	Verifier   Area = "verifier"
	Case       Area = "case"
)

// Areas are all areas, in the order of the content's way.
var Areas = []Area{Downloader, Verifier, Case}

// IsArea says whether a name is that of an area.
func IsArea(name string) bool { return slices.Contains(Areas, Area(name)) }

// Owner is a user and a group of the host, by number.
type Owner struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// Agents are the users that own the areas: one each, so that the kernel keeps them apart.
type Agents struct{ Downloader, Verifier, Case Owner }

// The default agents. The numbers are in the range of system users (below 1000) and above
// those that Debian and Alpine assign themselves (below 100, and upwards from 100 or downwards
// from 999). The case belongs to root, as which containerd runs.
const (
	DefaultDownloader = 961
	DefaultVerifier   = 962
	DefaultCase       = 0
)

// DefaultAgents are the agents of a host that chose no others.
func DefaultAgents() Agents {
	return Agents{
		Downloader: Owner{DefaultDownloader, DefaultDownloader},
		Verifier:   Owner{DefaultVerifier, DefaultVerifier},
		Case:       Owner{DefaultCase, DefaultCase},
	}
}

// Of is the owner of an area.
func (a Agents) Of(area Area) Owner {
	switch area {
	case Downloader:
		return a.Downloader
	case Verifier:
		return a.Verifier
	default:
		return a.Case
	}
}

// AreaMode is the mode of an open area's folder. The agents' are closed to everybody else;
// containerd's store is as containerd makes it.
func AreaMode(a Area) fs.FileMode {
	if a == Case {
		return 0o755
	}
	return 0o700
}

// Area is where an open area is mounted. The folder below the mount is empty, and nobody may
// enter it.
func (l Layout) Area(a Area) string { return filepath.Join(l.Tier(Vault), string(a)) }

// AreaImages is the folder that holds the images of a tier's areas.
func (l Layout) AreaImages(t Tier) string { return filepath.Join(l.Tier(t), "areas") }

// AreaImage is the image of an area.
func (l Layout) AreaImage(a Area) string { return filepath.Join(l.AreaImages(Vault), string(a)) }

// Converted is the marker that the conversion of an older device writes, as its last step,
// when everything of the old layout that belongs to the vault is in the vault. Its content is
// the converter's own.
func (l Layout) Converted() string { return filepath.Join(l.Tier(Vault), "converted.json") }

// OldPlaces are the folders of the older layout: while one of them is there and Converted is
// not, the device is still to be converted.
func (l Layout) OldPlaces() []string {
	var all []string
	for _, name := range []string{"img", "runx/pods/prepared", "downloads", "containerd"} {
		all = append(all, filepath.Join(l.Root, name))
	}
	return all
}

// IsReserved reports whether a name in the vault's folder is EVE's: its extension images, which
// are left alone.
func IsReserved(name string) bool { return name == "ext-imga.img" || name == "ext-imgb.img" }

// Dir is one directory of the layout.
type Dir struct {
	Path  string // absolute
	Tier  Tier   // "" for one that belongs to no tier
	Area  Area   // of the folder below an area's mount; "" for others
	Owner Owner
	Mode  fs.FileMode
	// AtLeast: the directory is the host's. It keeps its owner and its mode, to which the bits
	// of Mode are added.
	AtLeast bool
	// Later: made by its user when it is first needed.
	Later bool
	For   string // what it is for, in a few words
}

// Dirs are the directories of the layout, parents first. The owners of the areas are those of
// what is mounted there, see Agents: here, as everywhere else, it is root.
func (l Layout) Dirs() []Dir {
	// The agents must get to their areas, and nobody may list what else there is.
	const pass = 0o711
	all := []Dir{
		{Path: l.Root, Mode: pass, AtLeast: true, For: "everything that is kept"},
		{Path: l.Tier(Vault), Tier: Vault, Mode: pass, For: "sealed tier"},
		{Path: l.Layers(Vault), Tier: Vault, Mode: 0o700, For: "image layers"},
		{Path: l.Volumes(Vault), Tier: Vault, Mode: 0o700, For: "volumes"},
		{Path: l.Snapshots(Vault), Tier: Vault, Mode: 0o700, Later: true, For: "containerd's snapshots"},
		{Path: l.Disks(Vault), Tier: Vault, Mode: 0o700, Later: true, For: "disks of device.json"},
		{Path: l.AreaImages(Vault), Tier: Vault, Mode: 0o700, For: "images of the areas"},
	}
	for _, a := range []struct {
		area Area
		what string
	}{{Downloader, "what is being received"}, {Verifier, "what is being verified, and was"}, {Case, "content, as containerd names it"}} {
		all = append(all, Dir{Path: l.Area(a.area), Tier: Vault, Area: a.area, For: a.what})
	}
	return append(all,
		Dir{Path: l.Tier(Unsealed), Tier: Unsealed, Mode: 0o700, For: "tier that opens before attestation"},
		Dir{Path: l.Volumes(Unsealed), Tier: Unsealed, Mode: 0o700, For: "volumes"},
		Dir{Path: l.Layers(Unsealed), Tier: Unsealed, Mode: 0o700, Later: true, For: "image layers"},
		Dir{Path: l.Disks(Unsealed), Tier: Unsealed, Mode: 0o700, Later: true, For: "disks of device.json"},
		Dir{Path: l.Tier(Clear), Tier: Clear, Mode: 0o700, For: "tier without encryption"},
		Dir{Path: l.Volumes(Clear), Tier: Clear, Mode: 0o700, For: "volumes"},
		Dir{Path: l.VolumeState(), Mode: 0o700, For: "state of the volumes of all tiers"},
	)
}
