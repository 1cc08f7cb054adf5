//go:build guest

package area_test

import (
	"testing"

	"layervault/area/areatest"
)

// TestEncryptedAreas is the suite on dm-crypt.
func TestEncryptedAreas(t *testing.T) { areatest.Run(t, nil) }
