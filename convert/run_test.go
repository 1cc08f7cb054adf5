package convert_test

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"layervault/convert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// before is what every source is, before a run.
func (d *device) before() map[string]map[string]string {
	all := map[string]map[string]string{}
	for source := range d.want {
		all[source] = snapshot(d.t, d.path(source))
	}
	return all
}

// check compares sources and destinations with what was before.
func (d *device) check(before map[string]map[string]string, moved bool) {
	d.t.Helper()
	known := map[string]bool{}
	for source, to := range d.want {
		_, err := os.Lstat(d.path(source))
		if (to != "" && moved) != os.IsNotExist(err) {
			d.t.Errorf("source %s: %v", source, err)
		}
		if to == "" || !moved {
			same(d.t, "source "+source, before[source], snapshot(d.t, d.path(source)))
		}
		if to == "" {
			continue
		}
		known[to] = true
		now := snapshot(d.t, filepath.Join(d.areas, to))
		if strings.HasSuffix(to, ".container") && before[source]["snapshotid.txt"] == "" {
			id, err := os.ReadFile(filepath.Join(d.areas, to, "snapshotid.txt"))
			if err != nil || string(id) != filepath.Base(source) {
				d.t.Errorf("%s: old name %q, %v", to, id, err)
			}
			delete(now, "snapshotid.txt")
		}
		same(d.t, "copy of "+source, before[source], now)
	}
	// Nothing else came to be.
	for _, pattern := range []string{"volumes/*/*", "clear-volumes/*/*", "verifier/*/*", "downloader/*/*", "case/*", "*/.*", "*/*/.*"} {
		found, err := filepath.Glob(filepath.Join(d.areas, pattern))
		must(d.t, err)
		for _, path := range found {
			rel, err := filepath.Rel(d.areas, path)
			must(d.t, err)
			if !known[rel] {
				d.t.Errorf("unexpected %s", rel)
			}
		}
	}
}

func same(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %q is\n%s, was\n%s", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %q is new", what, name)
		}
	}
}

// checkReport wants every item in its place, and the reasons.
func (d *device) checkReport(r convert.Report, status convert.Status) {
	d.t.Helper()
	seen := map[string]bool{}
	for _, l := range r.Items {
		seen[l.Source] = true
		want, ok := d.want[l.Source]
		switch {
		case !ok:
			d.t.Errorf("unexpected item %+v", l)
		case want == "" && (l.Status != convert.Stays || !strings.Contains(l.Reason, d.why[l.Source])):
			d.t.Errorf("%s: %s: %q, want %q", l.Source, l.Status, l.Reason, d.why[l.Source])
		case want != "" && l.Status != status:
			d.t.Errorf("%s: %s: %s", l.Source, l.Status, l.Reason)
		}
	}
	for source := range d.want {
		if !seen[source] {
			d.t.Errorf("%s is not in the report", source)
		}
	}
}

// liar says of the download without the digest of its name what only a run finds out, which reads it.
func liar(r convert.Report) {
	for i := range r.Items {
		if r.Items[i].Source == "downloads/appImg.obj/verified/"+shaOf("liar")+"/image" {
			r.Items[i].Status, r.Items[i].Reason = convert.Stays, "digest of its name"
		}
	}
}

func TestUpgrade(t *testing.T) {
	d := full(t, 300)
	before := d.before()
	everything := snapshot(t, d.root)

	cfg := d.config()
	cfg.DryRun = true
	r, err := convert.Run(t.Context(), cfg)
	must(t, err)
	liar(r)
	d.checkReport(r, convert.Would)
	same(t, "dry run", everything, snapshot(t, d.root))

	var told []convert.Progress
	cfg.DryRun = false
	cfg.Progress = func(p convert.Progress) { told = append(told, p) }
	r, err = convert.Run(t.Context(), cfg)
	must(t, err)
	d.checkReport(r, convert.Copied)
	d.check(before, false)
	if last := told[len(told)-1]; last.Files != last.TotalFiles || last.Files == 0 || last.Bytes == 0 {
		t.Errorf("progress ends at %+v", last)
	}
	if !r.Complete || r.Bytes == 0 {
		t.Errorf("report: %+v", r)
	}
	if _, err := os.Stat(d.path("vault/converted.json")); err != nil {
		t.Error(err)
	}
	cfg.DryRun, cfg.Progress = true, nil
	r, err = convert.Run(t.Context(), cfg)
	must(t, err)
	if !strings.Contains(r.String(), "1 would move") || !strings.Contains(r.String(), "copied by an earlier run") {
		t.Errorf("a dry run after the upgrade:\n%s", r)
	}
	liar(r)
	d.checkReport(r, convert.Copied)
	cfg.DryRun = false

	// Once more: nothing is copied.
	r, err = convert.Run(t.Context(), cfg)
	must(t, err)
	d.checkReport(r, convert.Copied)
	if liar := int64(len("stays downloads/appImg.obj/verified//image") + 64); r.Bytes != liar { // is read to find out
		t.Errorf("copied %d bytes again", r.Bytes)
	}
	d.check(before, false)

	cfg.Commit = true
	r, err = convert.Run(t.Context(), cfg)
	must(t, err)
	d.checkReport(r, convert.Moved)
	d.check(before, true)

	// And again: it is known what was done.
	r, err = convert.Run(t.Context(), cfg)
	must(t, err)
	d.checkReport(r, convert.Moved)
	d.check(before, true)
	for _, kept := range []string{"certs/device.cert", "vault/ext-imga.img", "checkpoint/lastconfig"} {
		if _, err := os.Stat(d.path(kept)); err != nil {
			t.Error(err)
		}
	}
	if text := r.String(); !strings.Contains(text, "moved img/") || !strings.Contains(text, "purge counter") {
		t.Errorf("report:\n%s", text)
	}
}

func TestUpgradeCommitAtOnce(t *testing.T) {
	d := full(t, 50)
	before := d.before()
	cfg := d.config()
	cfg.Commit = true
	r, err := convert.Run(t.Context(), cfg)
	must(t, err)
	d.checkReport(r, convert.Moved)
	d.check(before, true)
}
