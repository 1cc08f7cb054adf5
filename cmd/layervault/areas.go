package main

import (
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"layervault/persist"
	"layervault/vault"
)

// areaSettings is what a person chooses for the areas.
type areaSettings struct {
	downloader, verifier, caseOwner string
	size, floor                     string

	vault.Areas // filled by check
}

func areaSettingsOf(env func(string) string) areaSettings {
	user := func(name string, def int) string { return envOr(env, name, strconv.Itoa(def)) }
	return areaSettings{
		downloader: user("downloader", persist.DefaultDownloader), verifier: user("verifier", persist.DefaultVerifier), caseOwner: user("case", persist.DefaultCase),
		size: env("areasize"), floor: env("floor"),
		Areas: vault.Areas{Agents: persist.DefaultAgents()},
	}
}

// register adds the flags of the users and of the room.
func (s *areaSettings) register(f *pflag.FlagSet) {
	f.StringVar(&s.downloader, "downloader", s.downloader, "user UID or UID:GID that receives content (env downloader)")
	f.StringVar(&s.verifier, "verifier", s.verifier, "user UID or UID:GID that verifies content (env verifier)")
	f.StringVar(&s.caseOwner, "case", s.caseOwner, "user UID or UID:GID that keeps the store of content: containerd's (env case)")
	f.StringVar(&s.floor, "floor", s.floor, "room that the areas leave free, such as 1G; empty for a sixteenth of the disk, 256 MiB to 4 GiB (env floor)")
}

// making adds the flag of new areas.
func (s *areaSettings) making(f *pflag.FlagSet) {
	f.StringVar(&s.size, "areasize", s.size, "size that a new area can grow to; empty for that of the disk (env areasize)")
}

// check reads the settings.
func (s *areaSettings) check() (err error) {
	owners := []struct {
		name, text string
		to         *persist.Owner
	}{{"downloader", s.downloader, &s.Agents.Downloader}, {"verifier", s.verifier, &s.Agents.Verifier}, {"case", s.caseOwner, &s.Agents.Case}}
	for _, o := range owners {
		if *o.to, err = parseOwner(o.text); err != nil {
			return usagef("setting %s=%q: must be UID or UID:GID: %w", o.name, o.text, err)
		}
	}
	if a := s.Agents; a.Downloader.UID == a.Verifier.UID || a.Downloader.UID == a.Case.UID || a.Verifier.UID == a.Case.UID {
		return usagef("settings downloader, verifier and case: must be three different users, or the kernel cannot keep them apart")
	}
	for _, n := range []struct {
		name, text string
		to         *int64
	}{{"areasize", s.size, &s.Size}, {"floor", s.floor, &s.Floor}} {
		if n.text == "" {
			continue
		}
		if *n.to, err = units.RAMInBytes(n.text); err != nil || *n.to <= 0 {
			return usagef("setting %s=%q: must be a number with a unit, such as 1G", n.name, n.text)
		}
	}
	return nil
}

// parseOwner reads UID or UID:GID; the group has the user's number when there is none.
func parseOwner(text string) (persist.Owner, error) {
	user, grp, both := strings.Cut(text, ":")
	if !both {
		grp = user
	}
	uid, err := strconv.ParseUint(user, 10, 31)
	if err != nil {
		return persist.Owner{}, err
	}
	gid, err := strconv.ParseUint(grp, 10, 31)
	return persist.Owner{UID: int(uid), GID: int(gid)}, err
}
