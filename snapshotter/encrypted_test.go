//go:build guest

package snapshotter_test

import "layervault/snapshotter/snapshottertest"

var images = snapshottertest.Encrypted
