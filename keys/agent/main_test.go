package agent

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// serverEnv makes the test binary a key service: KIND,MODE,PATH; see server_test.go.
const serverEnv = "LAYERVAULT_TEST_KEY_SERVICE"

func TestMain(m *testing.M) {
	if what := os.Getenv(serverEnv); what != "" {
		serve(what)
		return
	}
	goleak.VerifyTestMain(m)
}
