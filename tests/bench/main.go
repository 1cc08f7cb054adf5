package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	mainHost, plainHost string // DOCKER_HOST of the two engines
	persist, plainRoot  string // the disk, and a folder on it for plain trees
	plugin              *plugin
	base                string      // the earlier commit to compare with; "" for overlay2
	basePlugin          *plugin     // its plugin
	containerd          *containerd // nil where engines are compared
	snapshotters        []string    // ours, overlayfs, and others
	upgrade             bool        // measure persist upgrade; there is no engine
	repeats, runs       int
	fioTurns            int
	rows                []row
}

// step is a part of a run, by the name that -only takes.
type step struct {
	name string
	f    func() error
}

// result is the JSON file.
type result struct {
	Date     time.Time `json:"date"`
	Machine  machine   `json:"machine"`
	Versions versions  `json:"versions"`
	Method   string    `json:"method"`
	Rows     []row     `json:"rows"`
}

func main() {
	b := &bench{persist: "/persist"}
	var o options
	flag.StringVar(&b.mainHost, "main", "unix:///var/run/docker.sock", "socket of the engine on layervault")
	flag.StringVar(&b.plainHost, "plain", "unix:///run/bench-plain/docker.sock", "socket of the engine that it is compared with: on overlay2, or on -base")
	flag.StringVar(&b.plainRoot, "plain-root", "/persist/bench-plain", "folder for plain trees, on the same disk")
	flag.StringVar(&b.base, "base", "", "compare with this earlier commit in place of overlay2")
	flag.StringVar(&o.plugin, "plugin", "", "socket of the plugin (default: of the managed one)")
	flag.StringVar(&o.basePlugin, "base-plugin", "", "socket of the plugin of -base")
	flag.StringVar(&o.containerd, "containerd", "", "socket of a containerd: compare its snapshotters in place of engines")
	flag.StringVar(&o.snapshotters, "snapshotters", ours+",overlayfs", "the snapshotters to compare, layervault and overlayfs first")
	flag.BoolVar(&b.upgrade, "upgrade", false, "measure persist upgrade against cp -a, in place of engines")
	flag.IntVar(&b.repeats, "repeats", 3, "how often each pair is measured")
	flag.IntVar(&b.runs, "runs", 7, "how often docker run is measured")
	flag.IntVar(&b.fioTurns, "fio-turns", 40, "how often each pair of fio jobs is measured, a second each; an even number treats both sides alike")
	flag.StringVar(&o.json, "json", "", "write the result to this file too")
	flag.StringVar(&o.only, "only", "", "measure only these, by the first word of their names: apply,load,run,files,volumes,disk,memory,start; with -base: run,apply,open,read,disk; with -containerd: run,unpack,memory")
	flag.BoolVar(&o.plot, "plot", false, "measure nothing: draw the results in the JSON files that follow into SVG files beside them")
	flag.Parse()
	if o.plot {
		if err := plotFiles(flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.main(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags that main itself reads.
type options struct {
	plugin, basePlugin, json, only string
	containerd, snapshotters       string
	plot                           bool
}

func (b *bench) main(ctx context.Context, o options) error {
	if err := b.connect(ctx, o); err != nil {
		return err
	}
	if b.upgrade {
		err := b.upgradePair(ctx)
		return errors.Join(err, b.keep(ctx, o.json), printTable(os.Stdout, b.rows))
	}
	debian, err := os.ReadFile("/usr/share/layervault-guest/debian.tar")
	if err != nil {
		return err
	}
	small, err := smallTree()
	if err != nil {
		return err
	}
	image := filepath.Join(os.TempDir(), "bench-debian.tar")
	defer os.Remove(image)
	var steps []step
	switch {
	case b.containerd != nil:
		steps = b.snapshotSteps(ctx, debian, small)
	case b.base != "":
		steps = b.baseSteps(ctx, debian, small)
	default:
		steps = b.plainSteps(ctx, image, debian, small)
	}
	for _, step := range steps {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+step.name+",") {
			continue
		}
		err := step.f()
		// What was measured is worth having, whatever becomes of the rest.
		if err := b.keep(ctx, o.json); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, joinPrint(err, b.rows))
		}
	}
	return printTable(os.Stdout, b.rows)
}

// connect finds what is measured.
func (b *bench) connect(ctx context.Context, o options) (err error) {
	if b.upgrade {
		return nil
	}
	if o.containerd != "" {
		b.snapshotters = strings.Split(o.snapshotters, ",")
		b.containerd, err = newContainerd(o.containerd)
		return err
	}
	if o.plugin == "" {
		id, err := dockerOn(ctx, b.mainHost, "plugin", "inspect", "--format", "{{.Id}}", "layervault")
		if err != nil {
			return err
		}
		o.plugin = "/run/docker/plugins/" + id + "/layervault.sock"
	}
	b.plugin, b.basePlugin = newPlugin(o.plugin), newPlugin(o.basePlugin)
	return nil
}

// engine is the version of the engine that layervault serves.
func (b *bench) engine(ctx context.Context) (string, error) {
	switch {
	case b.upgrade:
		return "", nil
	case b.containerd != nil:
		return b.containerd.version(ctx)
	}
	return dockerOn(ctx, b.mainHost, "version", "--format", "{{.Server.Version}}")
}

// plainSteps compare with overlay2, and with what the disk itself does. image is a file
// for an image that was saved.
func (b *bench) plainSteps(ctx context.Context, image string, debian, small []byte) []step {
	return []step{
		{"run", func() error { return b.runPair(ctx, "overlay2", 1.15) }},
		{"apply", func() error { return b.applyPair(ctx, "Debian root", debian, 0.75) }},
		{"apply", func() error { return b.applyPair(ctx, "40,000 small files", small, 0.40) }},
		{"load", func() error {
			if _, err := dockerOn(ctx, b.plainHost, "import", "/usr/share/layervault-guest/debian.tar", "bench-load"); err != nil {
				return err
			}
			if _, err := dockerOn(ctx, b.plainHost, "save", "-o", image, "bench-load"); err != nil {
				return err
			}
			if _, err := dockerOn(ctx, b.plainHost, "rmi", "bench-load"); err != nil {
				return err
			}
			return b.loadPair(ctx, "Debian root", "bench-load", image)
		}},
		{"files", func() error { return b.filePairs(ctx) }},
		{"volumes", func() error { return b.volumePairs(ctx) }},
		{"disk", func() error {
			return b.diskCost(ctx, costly{"Debian root", debian, debianOnDisk}, costly{"40,000 small files", small, smallOnDisk})
		}},
		{"start", func() error { return b.startup(ctx) }},
		{"memory", func() error { return b.memory(ctx) }},
	}
}

// keep writes the rows so far to the JSON file, if there is to be one.
func (b *bench) keep(ctx context.Context, jsonFile string) error {
	if jsonFile == "" {
		return nil
	}
	r := result{Date: time.Now().UTC().Truncate(time.Second), Method: "turns A B B A, medians of their ratios; see tests/bench/doc.go", Rows: b.rows}
	var err error
	if r.Machine, r.Versions, err = describe(ctx, b.engine); err != nil {
		return err
	}
	r.Versions.Base = b.base
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonFile, append(raw, '\n'), 0o644)
}

// add keeps rows and says them as they come: a run takes many minutes.
func (b *bench) add(rows ...row) {
	for _, r := range rows {
		fmt.Fprintf(os.Stderr, "bench: %s: %.4g %s (compared: %.4g, ratio %.3f, %s)\n", r.Name, r.OursMedian, r.Unit, r.OtherMedian, r.Ratio, r.span())
	}
	b.rows = append(b.rows, rows...)
}

func joinPrint(err error, rows []row) error {
	if printErr := printTable(os.Stdout, rows); printErr != nil {
		return printErr
	}
	return err
}
