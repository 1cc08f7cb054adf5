package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"layervault/layer"
)

// maxMountData is the room mount(2) gives to options: one page, with its
// terminating zero. 4096 is the smallest page of any Linux.
const maxMountData = 4096 - 1

// overlayParameters is where the overlay module shows which options it knows.
const overlayParameters = "/sys/module/overlay/parameters"

// feature is a mount option and the module parameter that shows that the kernel knows it.
type feature struct{ parameter, option string }

// overlayFeatures are the options of the mounts made here. xino gives a container one st_dev;
// "auto" would leave this out without a word where the kernel sees no file handles, as for a
// process without CAP_DAC_READ_SEARCH. That capability is needed too: by file handles a file
// keeps its number when it is copied up. The others override distribution defaults that would
// write kernel-private marks into upper directories, which a tar could not transport.
var overlayFeatures = []feature{
	{"xino_auto", "xino=on"},
	{"index", "index=off"},
	{"redirect_dir", "redirect_dir=off"},
	{"metacopy", "metacopy=off"},
}

// known lists the options of the features that this kernel has.
func known(features []feature) []string {
	var options []string
	for _, f := range features {
		if _, err := os.Stat(filepath.Join(overlayParameters, f.parameter)); err == nil {
			options = append(options, f.option)
		}
	}
	return options
}

// overlay describes an overlay mount. All names are relative to dir, so neither their length nor
// a ':' or ',' in the name of dir matters.
type overlay struct {
	dir         string
	lowers      []string // highest first
	upper, work string   // "" for a read-only mount
	label       string   // SELinux label, "" for none
}

// data is the options string.
func (o overlay) data() (string, error) {
	opts := []string{"lowerdir=" + strings.Join(o.lowers, ":")}
	if o.upper != "" {
		opts = append(opts, "upperdir="+o.upper, "workdir="+o.work)
	}
	opts = append(opts, known(overlayFeatures)...)
	data := label.FormatMountLabel(strings.Join(opts, ","), o.label)
	if len(data) > maxMountData {
		return "", tooDeep(len(o.lowers))
	}
	return data, nil
}

func tooDeep(lowers int) error {
	return fmt.Errorf("%w: %d lower layers exceed the kernel limit of %d bytes of mount options", layer.ErrTooDeep, lowers, maxMountData)
}

// mount mounts the overlay at an absolute path.
func (o overlay) mount(at string) error {
	data, err := o.data()
	if err != nil {
		return err
	}
	var flags uintptr
	if o.upper == "" {
		flags = unix.MS_RDONLY
	}
	if err := inDirectory(o.dir, func() error {
		return unix.Mount("overlay", at, "overlay", flags, data)
	}); err != nil {
		return fmt.Errorf("mount overlay at %s (%s): %w", at, data, err)
	}
	return nil
}

// inDirectory runs f on a thread of its own whose working directory is dir. The
// thread is not shared with any other goroutine, before or after: it ends with
// this one, because it is never unlocked.
func inDirectory(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("give a thread its own working directory: %w", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- fmt.Errorf("enter %s: %w", dir, err)
			return
		}
		err := f()
		// Go parks its very first thread instead of ending it: let it not hold dir.
		done <- errors.Join(err, unix.Chdir("/"))
	}()
	return <-done
}
