//go:build guest

package snapshot_test

import "layervault/snapshotter/snapshottertest"

var images = snapshottertest.Encrypted
