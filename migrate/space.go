package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-units"
)

// marginPart and margin are what must be free beyond the engines' numbers: an eighth for what file
// systems, headers and names take that the numbers leave out, and 256 MiB so that nothing else on
// the disk stops. Temporary files are gone in a moment, and may lie in a small tmpfs: for them the
// eighth suffices.
const (
	marginPart = 8
	margin     = 256 << 20
)

// Need is the space that a migration takes at one place.
type Need struct {
	Path   string `json:"path"`
	For    string `json:"for"`
	Needed int64  `json:"needed_bytes"`
	Free   int64  `json:"free_bytes"`
	Enough bool   `json:"enough"` // for all needs of the file system together

	device uint64
	floor  bool // margin applies
}

// needs adds up the space, from the engines' own numbers.
func (m *Migration) needs(ctx context.Context, p *Plan) error {
	p.Space = []Need{}
	var sum, largest int64
	for _, r := range p.Images {
		if r.works() {
			sum += r.Size
			largest = max(largest, r.Size)
		}
	}
	if sum == 0 {
		return nil
	}
	once := sum // layers that several images share
	if m.From != nil {
		all, err := m.From.LayersSize(ctx)
		if err != nil {
			return fmt.Errorf("old engine: %w", err)
		}
		if all > 0 {
			once = min(sum, all)
		}
	}
	var errs []error
	add := func(path, what string, n int64, floor bool) {
		free, device, err := space(path)
		errs = append(errs, err)
		p.Space = append(p.Space, Need{Path: path, For: what, Needed: n + n/marginPart, Free: free, device: device, floor: floor})
	}
	if m.From != nil {
		add(tempFolder(ctx, p.From.Address, p.From.Root), "temporary files of the old engine, one image at a time", largest, false)
	}
	switch {
	case m.To == nil:
		add(m.Dir, "tars of the images", sum, true)
	case p.To.Driver == driverName:
		add(m.Host.Vault, "layers of the new engine", once, true)
		add(m.Host.Content, "containerd's copies of the layers", once, true)
	default:
		add(p.To.Root, "images of the new engine", 2*once, true)
	}
	return errors.Join(errs...)
}

// enough compares what each file system has. Error: ErrSpace.
func (p *Plan) enough() error {
	total, floor := map[uint64]int64{}, map[uint64]int64{}
	for _, n := range p.Space {
		total[n.device] += n.Needed
		if n.floor {
			floor[n.device] = margin
		}
	}
	var errs []error
	said := map[uint64]bool{}
	for i := range p.Space {
		n := &p.Space[i]
		wanted := total[n.device] + floor[n.device]
		n.Enough = n.Free >= wanted
		if !n.Enough && !said[n.device] {
			said[n.device] = true
			errs = append(errs, fmt.Errorf("%w at %s: %s needed, %s free", ErrSpace, n.Path, units.BytesSize(float64(wanted)), units.BytesSize(float64(n.Free))))
		}
	}
	return errors.Join(errs...)
}
