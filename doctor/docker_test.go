package doctor

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudgeEngine(t *testing.T) {
	for _, tc := range []struct {
		name     string
		engine   dockerd
		gateOpen bool
		want     Verdict // of the worst finding
		detail   string
	}{
		{"in use", dockerd{"26.1.5+dfsg1", true, "layervault:latest", false}, false, Good, "runs on layervault:latest"},
		{"ready", dockerd{"26.1.5", true, "overlay2", false}, false, Warning, "stores its layers with overlay2"},
		{"old and ready", dockerd{"20.10.24+dfsg1", true, "overlay2", false}, false, Warning, "stores its layers with overlay2"},
		{"not experimental", dockerd{"26.1.5", false, "overlay2", false}, false, Missing, "is not experimental"},
		{"27", dockerd{"27.5.1", true, "overlay2", false}, false, Missing, "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS"},
		{"27 with its variable", dockerd{"27.5.1", true, "overlay2", false}, true, Warning, "stores its layers with overlay2"},
		{"28", dockerd{"28.0.0", true, "overlay2", false}, true, Missing, "removed in 28.0"},
		{"29", dockerd{"29.1.2", false, "overlayfs", false}, false, Missing, "removed in 28.0"},
		{"29 on the snapshotter", dockerd{"29.1.2", false, "layervault", true}, false, Good, "--storage-opt size= has no effect"},
		{"29 on another snapshotter", dockerd{"29.1.2", false, "overlayfs", true}, false, Missing, "it needs layervault's snapshotter"},
		{"26 with the image store", dockerd{"26.1.5", false, "layervault", true}, false, Good, "containerd's snapshotter"},
		{"no version", dockerd{}, false, Warning, "not understood"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			worst, details := Good, ""
			for _, f := range judgeEngine(tc.engine, "layervault", tc.gateOpen) {
				details += f.Detail + "\n"
				if f.Verdict != Good && f.Fix == "" && tc.engine.Version != "" {
					t.Errorf("%q has no fix", f.Detail)
				}
				if f.Verdict == Missing || worst == Good {
					worst = f.Verdict
				}
			}
			if worst != tc.want || !strings.Contains(details, tc.detail) {
				t.Errorf("worst is %s, want %s with %q:\n%s", worst, tc.want, tc.detail, details)
			}
		})
	}
}

func TestAskDocker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/info" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ServerVersion": "26.1.5", "ExperimentalBuild": true, "Driver": "overlayfs", "Images": 3,
			"DriverStatus": [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}})
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	defer func() { _ = server.Close(); <-done }()

	got, err := askDocker(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if want := (dockerd{"26.1.5", true, "overlayfs", true}); got != want {
		t.Errorf("engine is %+v", got)
	}
	if _, err := askDocker(t.Context(), path+".none"); err == nil {
		t.Error("no socket is no error")
	}
}
