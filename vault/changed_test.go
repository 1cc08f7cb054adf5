package vault

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"layervault/crypt"
)

// A changed image is named by its layer, where it has one.
func TestChangedLayers(t *testing.T) {
	rows := []LayerRow{{Layer: "one", UUID: "u1"}, {Layer: "two", UUID: "u2"}, {Layer: "fresh"}}
	names, err := changedLayers(rows, []string{"u2", "u9"}, nil)
	if !slices.Equal(names, []string{"two", "u9"}) || !errors.Is(err, crypt.ErrCorrupt) ||
		!strings.Contains(err.Error(), "layer two: ") || !strings.Contains(err.Error(), "image u9: ") {
		t.Errorf("%q, %v", names, err)
	}
	if names, err := changedLayers(rows, nil, nil); names == nil || len(names) > 0 || err != nil {
		t.Errorf("nothing changed: %q, %v", names, err)
	}
	if _, err := changedLayers(rows, nil, io.ErrNoProgress); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("kernel not asked: %v", err)
	}
}
