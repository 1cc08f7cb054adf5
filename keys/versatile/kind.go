package versatile

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"layervault/keys"
)

// flagFile is the provider's flag.
const flagFile = "key-file"

// Kind is this provider for the list of all.
func Kind() keys.Kind {
	return keys.Kind{
		Name:  Name,
		About: "a key file; protects nothing on a stolen disk that holds the file too",
		Flags: []keys.Flag{{
			Name: flagFile, For: keys.ForKeys,
			Usage: "key file of versatile slots (default versatile.key beside the tier)",
		}},
		New:     func(_ context.Context, s keys.Settings) (keys.Provider, error) { return fromSettings(s) },
		Open:    fromSettings,
		Outside: func(s keys.Settings) string { return "the key file " + Path(s.Tier, s.Set[flagFile]) },
		Faults: []keys.Fault{
			{Err: ErrNoKeyFile, Class: keys.ClassMissing, Telling: true, Step: "restore the key file from a backup; or open another slot: layervault key recover"},
			{Err: ErrBadKeyFile, Step: "restore the key file from a backup, or name another: --key-file FILE"},
		},
	}
}

// Path is the key file of a tier: set, or the usual one.
func Path(tier, set string) string {
	if set != "" {
		return set
	}
	return filepath.Join(filepath.Dir(tier), FileName)
}

// fromSettings refuses a key file inside the tier that it opens: a copy of the tier would
// open itself.
func fromSettings(s keys.Settings) (keys.Provider, error) {
	path := Path(s.Tier, s.Set[flagFile])
	rel, err := filepath.Rel(s.Tier, path)
	if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return nil, fmt.Errorf("%w: %s is inside tier %s, which it opens", ErrBadKeyFile, path, s.Tier)
	}
	return New(path), nil
}
