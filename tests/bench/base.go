package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
)

// baseGoal bounds each ratio of this program to an earlier one: a change that is not about
// speed costs 3 % at most.
const baseGoal = 1.03

// baseSteps compare this program with an earlier one, each with a plugin and an engine of its own.
func (b *bench) baseSteps(ctx context.Context, debian, small []byte) []step {
	return []step{
		{"run", func() error { return b.runPair(ctx, "base "+b.base, baseGoal) }},
		{"apply", func() error { return b.baseApply(ctx, "Debian root", debian) }},
		{"apply", func() error { return b.baseApply(ctx, "40,000 small files", small) }},
		{"open", func() error { return b.baseOpen(ctx) }},
		{"read", func() error { return b.baseRead(ctx, "Debian root", debian, 0) }},
		{"read", func() error { return b.baseRead(ctx, "40,000 small files", small, coldGoal) }},
		{"disk", func() error { return b.baseDisk(ctx, "Debian root", debian, debianOnDisk) }},
		{"disk", func() error { return b.baseDisk(ctx, "40,000 small files", small, smallOnDisk) }},
	}
}

// baseApply compares ApplyDiff of one tar, plugin against plugin.
func (b *bench) baseApply(ctx context.Context, name string, layer []byte) error {
	side := func(p *plugin) func(int) (float64, error) {
		return func(turn int) (float64, error) { return b.pluginApply(ctx, p, name, turn, layer) }
	}
	t, err := turns(b.repeats, side(b.plugin), side(b.basePlugin))
	if err != nil {
		return err
	}
	b.add(pair("ApplyDiff, "+name, "s", "base "+b.base, t[0], t[1], baseGoal, false))
	return nil
}

// openAtOnce is how many layers one turn opens: a single one takes some milliseconds, in
// which a busy machine may do anything.
const openAtOnce = 16

// moreToOpen is what a sealed layer may take longer than one without dm-verity, in milliseconds.
const moreToOpen = 5

// baseOpen compares the first Get of a sealed layer: loop device, header, key slot,
// dm-crypt and mount. The layers of each turn are new, so no plugin has one of them open,
// and the page cache is empty.
func (b *bench) baseOpen(ctx context.Context) error {
	layer, err := oneFile()
	if err != nil {
		return err
	}
	side := func(p *plugin) func(int) (float64, error) {
		return func(turn int) (float64, error) { return b.pluginOpen(ctx, p, turn, layer) }
	}
	t, err := turns(b.repeats, side(b.plugin), side(b.basePlugin))
	if err != nil {
		return err
	}
	more := make([]float64, len(t[0]))
	for i := range more {
		more[i] = round3(1000 * (t[0][i] - t[1][i]) / openAtOnce)
	}
	b.add(pair(fmt.Sprintf("cold Get of %d sealed layers", openAtOnce), "s", "base "+b.base, t[0], t[1], baseGoal, false),
		single("the same, for one layer, more than base "+b.base, "ms", more, moreToOpen))
	return nil
}

func (b *bench) pluginOpen(ctx context.Context, p *plugin, turn int, layer []byte) (t float64, err error) {
	ids := make([]string, openAtOnce)
	for i := range ids {
		ids[i] = fmt.Sprintf("bench-open-%d-%d", turn, i)
		if err := p.apply(ctx, ids[i], "", bytes.NewReader(layer)); err != nil {
			return 0, err
		}
	}
	if err := b.settle(); err != nil {
		return 0, err
	}
	t, err = timed(func() error {
		for _, id := range ids {
			if _, err := p.call(ctx, "Get", pluginRequest{ID: id}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		_, putErr := p.call(ctx, "Put", pluginRequest{ID: id})
		if err := errors.Join(putErr, p.remove(ctx, id)); err != nil {
			return 0, err
		}
	}
	return t, nil
}

// pluginApply is how long one plugin takes to import a tar, until it is durable.
func (b *bench) pluginApply(ctx context.Context, p *plugin, name string, turn int, layer []byte) (float64, error) {
	id := fmt.Sprintf("bench-%s-%d", strings.NewReplacer(" ", "-", ",", "").Replace(name), turn)
	if err := b.settle(); err != nil {
		return 0, err
	}
	t, err := timed(func() error {
		if err := p.apply(ctx, id, "", bytes.NewReader(layer)); err != nil {
			return err
		}
		return syncDisk(b.persist)
	})
	if err != nil {
		return 0, fmt.Errorf("ApplyDiff of %s: %w", name, err)
	}
	return t, p.remove(ctx, id)
}

// oneFile is the tar of a layer with a single small file.
func oneFile() ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	body := []byte("a file\n")
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(body))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}
