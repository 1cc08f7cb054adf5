package volumetest

import (
	"context"
	"strings"
	"testing"

	"layervault/crypt"
	"layervault/persist"
	"layervault/volume"
)

// Backend is what the suite runs on.
type Backend struct {
	// Devices makes the images of a store, with keys that open its tiers; nil for the
	// store's own.
	Devices func(keys func(context.Context, persist.Tier) (crypt.KeySource, error)) volume.Devices
	Many    int // volumes to mount at once
	// Sequences is how many random sequences of operations the model test does.
	Sequences int
	// Grows: this machine lets file systems grow (CAP_SYS_RESOURCE).
	Grows bool
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	for _, one := range []struct {
		name string
		test func(e *env)
	}{
		// lifecycle.go: made, made anew, removed
		{"Lifecycle", testLifecycle}, {"Recreate", testRecreate}, {"Purge", testPurge}, {"Counters", testCounters},
		{"Clear", testClear}, {"Immutable", testImmutable},
		// ondisk.go
		{"OnDisk", testOnDisk}, {"OnDiskDamaged", testOnDiskDamaged},
		// mounts.go: docker's mounts
		{"Counts", testCounts}, {"Copying", testCopying}, {"Restart", testRestart}, {"InUse", testInUse}, {"Namespace", testNamespace},
		{"Starting", testStarting},
		// host.go: people's mounts, and a command beside the plugin
		{"Host", testHost}, {"Closed", testClosed}, {"Beside", testBeside}, {"Remade", testRemade},
		// persistence.go
		{"Reboot", testReboot}, {"Revision", testRevision},
		// sizes.go
		{"Bound", testBound}, {"Grow", testGrow}, {"Trim", testTrim},
		// space.go: inodes, and volumes that were full
		{"Inodes", testInodes}, {"GrownFull", testGrownFull}, {"GrownInodes", testGrownInodes},
		// damage.go: no key, or not what was written
		{"Locked", testLocked}, {"Damaged", testDamaged}, {"Superseded", testSuperseded}, {"Copy", testCopy},
		// crashes.go
		{"Sweep", testSweep}, {"Crashes", testCrashes},
		// many.go, model.go
		{"Race", testRace}, {"Many", func(e *env) { testMany(e, b.Many) }}, {"Model", func(e *env) { testModel(e, b.Sequences) }},
	} {
		if strings.HasPrefix(one.name, "Grow") && !b.Grows {
			continue
		}
		t.Run(one.name, func(t *testing.T) { one.test(newEnv(t, b)) })
	}
}
