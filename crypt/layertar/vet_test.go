package layertar_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"layervault/crypt/layertar"
)

func TestVet(t *testing.T) {
	for _, c := range dialects(t) {
		v := layertar.Vet(t.Context(), bytes.NewReader(c.body))
		got, err := io.ReadAll(v)
		if errors.Is(c.err, layertar.ErrSparse) || strings.HasPrefix(c.name, "GNU sparse") {
			if !errors.Is(err, layertar.ErrSparse) {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if c.name != "cut off in an entry" && err != nil || !bytes.Equal(got, c.body) {
			t.Errorf("%s: %d bytes of %d, %v", c.name, len(got), len(c.body), err)
		}
		_ = v.Close()
	}
	// A reader that stops early, and one that is called off.
	body := makeTar(t, file("a", strings.Repeat("x", 1<<20)), file("b", "1"))
	v := layertar.Vet(t.Context(), bytes.NewReader(body))
	if _, err := io.ReadFull(v, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
	_ = v.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v = layertar.Vet(ctx, bytes.NewReader(body))
	if _, err := io.ReadAll(v); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = v.Close()
}
