package doctor

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"layervault/engine"
	"layervault/vault"
)

func TestJudgeContainerd(t *testing.T) {
	wanted := engine.Wanted{Snapshots: "/s", Diffs: "/d", Exports: "/persist/vault"}
	complete := func() *engine.Settings {
		return &engine.Settings{
			Proxies: map[string]engine.Proxy{
				engine.SnapshotterName: {Type: "snapshot", Address: "/s", Exports: "/persist/vault"},
				engine.DifferName:      {Type: "diff", Address: "/d"},
			},
			Differs: []string{engine.DifferName, "walking"},
		}
	}
	loaded := []engine.Plugin{{Type: engine.TypeSnapshotter, ID: engine.SnapshotterName}, {Type: engine.TypeDiffer, ID: engine.DifferName}}
	external := engine.Containerd{Kind: engine.External, PID: 1, Version: "2.4.2", Config: "/c.toml", Socket: "/c.sock"}
	kubernetes := complete()
	kubernetes.CRI = engine.SnapshotterName
	kubernetes.Proxies[engine.SnapshotterName] = engine.Proxy{Type: "snapshot", Address: "/s"}
	broken := []engine.Plugin{loaded[0], {Type: engine.TypeDiffer, ID: engine.DifferName, Error: "no address"}}
	for name, tc := range map[string]struct {
		seen   seen
		want   Verdict // of the worst finding
		detail string
	}{
		"docker's, not wanted": {seen{Containerd: engine.Containerd{Kind: engine.Managed}}, Good, "belongs to dockerd"},
		"docker's, wanted":     {seen{Containerd: engine.Containerd{Kind: engine.BuiltIn}, offered: true}, Warning, "leaves out proxy plugins"},
		"not wanted":           {seen{Containerd: external, settings: &engine.Settings{}}, Good, "without layervault's snapshotter"},
		"wanted":               {seen{Containerd: external, settings: &engine.Settings{}, offered: true}, Warning, "lacks proxy_plugins.layervault, proxy_plugins.layervault-diff, default of the diff-service"},
		"unreadable":           {seen{Containerd: external, err: errors.New("bad line")}, Warning, "bad line"},
		"complete":             {seen{Containerd: external, settings: complete(), plugins: loaded, offered: true}, Good, "configured in /c.toml"},
		"no service":           {seen{Containerd: external, settings: complete(), plugins: loaded, silent: []string{"/s"}}, Missing, "nobody answers on /s"},
		"not restarted":        {seen{Containerd: external, settings: complete(), plugins: loaded[:1], offered: true}, Warning, "has no plugin layervault-diff"},
		"not loaded":           {seen{Containerd: external, settings: complete(), plugins: broken, offered: true}, Missing, "could not load the plugin layervault-diff: no address"},
		"hangs":                {seen{Containerd: external, settings: complete(), offered: true}, Warning, "does not answer on /c.sock"},
		"no exports":           {seen{Containerd: external, settings: kubernetes, plugins: loaded, offered: true}, Warning, "exports.root of the snapshotter is not /persist/vault"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.seen.wanted = wanted
			wantWorst(t, judgeContainerd(tc.seen), tc.want, tc.detail)
		})
	}
}

// wantWorst checks the worst of findings, and that what is wrong comes with a fix.
func wantWorst(t *testing.T, found []Finding, want Verdict, detail string) {
	t.Helper()
	worst, details := Good, ""
	for _, f := range found {
		details += f.Detail + "\n"
		if f.Verdict != Good && f.Fix == "" {
			t.Errorf("%q has no fix", f.Detail)
		}
		if f.Verdict == Missing || worst == Good {
			worst = f.Verdict
		}
	}
	if worst != want || !strings.Contains(details, detail) {
		t.Errorf("worst is %s, want %s with %q:\n%s", worst, want, detail, details)
	}
}

func TestJudgeUnpack(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 27, 1, minute, 0, 0, time.UTC) }
	sealed := vault.LayerRow{Layer: "s1", Name: "default/1/sha256:aa", State: "committed", Kind: "sealed", Created: at(1)}
	walked := vault.LayerRow{Layer: "s2", Name: "default/2/sha256:bb", State: "committed", Kind: "writable", Created: at(2)}
	container := vault.LayerRow{Layer: "s3", Name: "default/3/sha256:cc", State: "active", Kind: "writable", Created: at(3)}
	built := vault.LayerRow{Layer: "s4", Name: "default/4/yq3k", State: "committed", Kind: "writable", Created: at(4)}
	if found := judgeUnpack([]vault.LayerRow{container, built, {Layer: "graph", Kind: "sealed"}}); found != nil {
		t.Errorf("without an image: %v", found)
	}
	wantWorst(t, judgeUnpack([]vault.LayerRow{sealed, container, built}), Good, "layer s1, 2026-11-27 01:01:00) was unpacked by layervault's differ")
	wantWorst(t, judgeUnpack([]vault.LayerRow{walked, sealed}), Warning, "layer s2")
}

func TestAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if !answers(t.Context(), path) {
		t.Error("a socket with a listener does not answer")
	}
	l.Close()
	if answers(t.Context(), path) {
		t.Error("a socket without a listener answers")
	}
}
