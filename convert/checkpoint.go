package convert

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ErrNoConfig: no checkpoint of EVE's configuration can be read. Volumes then stay where they
// are, because nothing else says whose they are.
var ErrNoConfig = errors.New("no readable checkpoint of EVE's configuration")

// checkpoints are the files with EVE's last configuration, in the order in which they are
// tried: today's name, the name of EVE's design document, and the copies beside them.
var checkpoints = []string{"checkpoint/lastconfig", "checkpoint/lastconfig.bak", "checkpoint/config", "checkpoint/config.bak"}

// readConfig reads the first checkpoint that is whole. tried says what was wrong with each
// before it.
func readConfig(root *folder) (d *device, from string, tried []string, err error) {
	var errs []error
	for _, name := range checkpoints {
		d, err := readCheckpoint(root, name)
		if err == nil {
			d.complete()
			return d, name, tried, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		err = fmt.Errorf("%s: %w", name, err)
		tried, errs = append(tried, err.Error()), append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, fmt.Errorf("none of %s exists", strings.Join(checkpoints, ", ")))
	}
	return nil, "", tried, fmt.Errorf("%w: %w", ErrNoConfig, errors.Join(errs...))
}

func readCheckpoint(root *folder, name string) (*device, error) {
	fd, err := openBeneath(root.fd, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrBadConfig)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	return decodeConfig(data)
}

// complete fills in what the configuration says elsewhere: a drive without a digest has that of
// the content of its volume.
func (d *device) complete() {
	trees := map[string]string{}
	for _, t := range d.trees {
		trees[strings.ToLower(t.uuid)] = t.sha
	}
	for i := range d.apps {
		a := &d.apps[i]
		for j := range a.drives {
			if a.drives[j].sha == "" && j < len(a.refs) {
				if v := d.volume(a.refs[j].uuid); v != nil {
					a.drives[j].sha = trees[strings.ToLower(v.tree)]
				}
			}
		}
	}
}

// volume finds the configuration of a volume; nil if there is none.
func (d *device) volume(id string) *volumeConfig {
	for i := range d.volumes {
		if sameUUID(d.volumes[i].uuid, id) {
			return &d.volumes[i]
		}
	}
	return nil
}

// app finds an application; nil if there is none.
func (d *device) app(id string) *app {
	for i := range d.apps {
		if sameUUID(d.apps[i].uuid, id) {
			return &d.apps[i]
		}
	}
	return nil
}

func sameUUID(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// goodUUID brings a UUID to the form of a volume's name; "" for one that is none, or is zero.
func goodUUID(text string) string {
	u, err := uuid.Parse(text)
	if err != nil || u == uuid.Nil || !strings.EqualFold(u.String(), text) {
		return ""
	}
	return u.String()
}
