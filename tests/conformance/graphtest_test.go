//go:build guest

package conformance

import (
	"testing"

	"github.com/docker/docker/daemon/graphdriver/graphtest"
)

// TestGraph is docker's own suite for graph drivers. The cases share one driver:
// it starts with the first and is put away by the last.
func TestGraph(t *testing.T) {
	refuseSkip(t)
	graphtest.GetDriver(t, driverName)
	for _, tc := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"CreateEmpty", func(t *testing.T) { graphtest.DriverTestCreateEmpty(t, driverName) }},
		{"CreateBase", func(t *testing.T) { graphtest.DriverTestCreateBase(t, driverName) }},
		{"CreateSnap", func(t *testing.T) { graphtest.DriverTestCreateSnap(t, driverName) }},
		{"DeepLayerRead128", func(t *testing.T) { graphtest.DriverTestDeepLayerRead(t, 128, driverName) }},
		{"DiffApply10", func(t *testing.T) { graphtest.DriverTestDiffApply(t, 10, driverName) }},
		{"DiffApply1000", func(t *testing.T) { graphtest.DriverTestDiffApply(t, 1000, driverName) }},
		{"Changes", func(t *testing.T) { graphtest.DriverTestChanges(t, driverName) }},
		{"SetQuota", func(t *testing.T) { graphtest.DriverTestSetQuota(t, driverName, true) }},
	} {
		t.Run(tc.name, tc.run)
	}
	graphtest.PutDriver(t)
}

// BenchmarkGraph is docker's own benchmarks, for comparison with other drivers.
func BenchmarkGraph(b *testing.B) {
	refuseSkip(b)
	graphtest.GetDriver(b, driverName)
	b.Run("Exists", func(b *testing.B) { graphtest.DriverBenchExists(b, driverName) })
	b.Run("GetEmpty", func(b *testing.B) { graphtest.DriverBenchGetEmpty(b, driverName) })
	b.Run("DiffBase", func(b *testing.B) { graphtest.DriverBenchDiffBase(b, driverName) })
	b.Run("DiffSmallUpper", func(b *testing.B) { graphtest.DriverBenchDiffN(b, 10, 10, driverName) })
	b.Run("Diff10KFilesUpper", func(b *testing.B) { graphtest.DriverBenchDiffN(b, 10, 10000, driverName) })
	b.Run("Diff10KFilesBottom", func(b *testing.B) { graphtest.DriverBenchDiffN(b, 10000, 10, driverName) })
	b.Run("DiffApply100", func(b *testing.B) { graphtest.DriverBenchDiffApplyN(b, 100, driverName) })
	b.Run("Diff20Layers", func(b *testing.B) { graphtest.DriverBenchDeepLayerDiff(b, 20, driverName) })
	b.Run("Read20Layers", func(b *testing.B) { graphtest.DriverBenchDeepLayerRead(b, 20, driverName) })
	graphtest.PutDriver(b)
}

// refuseSkip makes a skip a failure: the suite skips itself when a driver does not
// start, which is what it is here to find out.
func refuseSkip(tb testing.TB) {
	tb.Cleanup(func() {
		if tb.Skipped() {
			tb.Error("the plugin did not start")
		}
	})
}
