package volumetest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Place is where a volume of the model tests, here and in tests/e2e, has the content of a
// revision. The names of volumes with persistence=revision end in "-rev".
func Place(name, revision string) string {
	if strings.HasSuffix(name, "-rev") {
		return name + "@" + revision
	}
	return name
}

// Choose takes the key of one value that a condition allows, always the same for a seed; ""
// for none.
func Choose[T any](r *rand.Rand, from map[string]T, allowed func(T) bool) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if allowed(from[name]) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return names[r.IntN(len(names))]
}

// every allows every value.
func every[T any](T) bool { return true }
