package layer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"layervault/layer"
)

// manyLayers is how many a start must cope with in a second.
const manyLayers = 10_000

func manyRecords(b *testing.B, cfg layer.Config) {
	b.Helper()
	for n := range manyLayers {
		dir := filepath.Join(cfg.Root, fmt.Sprintf("%064x", n))
		must(b, os.MkdirAll(dir, 0o700))
		record := fmt.Sprintf(`{"version":1,"id":"%064x","kind":"sealed","uuid":"0b7c5a3e-7f0e-4c3a-9f43-3f0f6f5e2d10","created":"2026-11-21T21:00:00Z"}`, n)
		must(b, os.WriteFile(filepath.Join(dir, "layer.json"), []byte(record), 0o600))
	}
}

func BenchmarkOpen10000(b *testing.B) {
	cfg := config(b)
	manyRecords(b, cfg)
	for b.Loop() {
		s, err := layer.Open(b.Context(), cfg)
		must(b, err)
		must(b, s.Close(b.Context()))
	}
}

// BenchmarkFirstRemove10000 is the one call that reads all records.
func BenchmarkFirstRemove10000(b *testing.B) {
	cfg := config(b)
	manyRecords(b, cfg)
	for b.Loop() {
		s, err := layer.Open(b.Context(), cfg)
		must(b, err)
		must(b, s.CheckUnused(b.Context(), "x"))
		must(b, s.Close(b.Context()))
	}
}
