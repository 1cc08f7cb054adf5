//go:build guest

package conformance

import (
	"testing"

	"github.com/docker/docker/daemon/graphdriver/graphtest"
	"github.com/docker/docker/pkg/plugingetter"
	"github.com/docker/docker/pkg/plugins"
	"github.com/docker/docker/daemon/graphdriver"
)

var _ = plugins.NewClient
var _ plugingetter.CompatPlugin
var _ graphdriver.Driver

func TestX(t *testing.T) { graphtest.DriverTestCreateEmpty(t, "wire") }
