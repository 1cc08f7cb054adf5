package plugin_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"layervault/plugin"
)

func TestLog(t *testing.T) {
	errKnown := errors.New("known")
	var out, failed strings.Builder
	log := plugin.NewLog(&out, &failed, slog.LevelInfo, func(err error) string {
		if errors.Is(err, errKnown) {
			return "type this"
		}
		return ""
	}).With("of", "test")
	log.Debug("not shown")
	log.Info("listens")
	log.Warn("slow", "error", errKnown)
	log.Error("failed", "path", "/p", "error", errKnown)
	log.Error("failed again", "error", errors.New("other"))
	if got, want := out.String(), "level=INFO msg=listens of=test\n"; got != want {
		t.Errorf("standard output has %q, want %q", got, want)
	}
	want := "level=WARN msg=slow of=test error=known\n" +
		"level=ERROR msg=failed of=test path=/p error=known hint=\"type this\"\n" +
		"level=ERROR msg=\"failed again\" of=test error=other\n"
	if got := failed.String(); got != want {
		t.Errorf("standard error has %q, want %q", got, want)
	}
}
