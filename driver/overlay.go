package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"layervault/crypt"
	"layervault/layer"
)

// maxMountData is the room mount(2) gives to options: one page, with its
// terminating zero. 4096 is the smallest page of any Linux.
const maxMountData = 4096 - 1

// overlayParameters is where the overlay module shows which options it knows.
const overlayParameters = "/sys/module/overlay/parameters"

// overlayFeatures are mount options and the module parameter that shows the
// kernel knows them. xino gives a container one st_dev; "auto" would leave it out
// without a word where the kernel sees no file handles, as for a mounter without
// CAP_DAC_READ_SEARCH. That capability is needed too: by file handles a file keeps
// its number when it is copied up. The rest pins what a distribution may have made the
// default and what would put kernel-private marks into upper directories, which a Diff
// could not carry elsewhere.
var overlayFeatures = []struct{ parameter, option string }{
	{"xino_auto", "xino=on"},
	{"index", "index=off"},
	{"redirect_dir", "redirect_dir=off"},
	{"metacopy", "metacopy=off"},
}

// overlay describes an overlay mount of a view: with an upper, the view's first
// image is the upper; without, all are lowers and the mount is read-only.
type overlay struct {
	view   *layer.View
	images int
	upper  bool
	label  string // SELinux label, "" for none
}

// data is the options string. All names are relative to the view's directory, so
// neither their length nor a ':' or ',' in the directory's name matters.
func (o overlay) data() (string, error) {
	first := 0
	if o.upper {
		first = 1
	}
	lowers := make([]string, 0, o.images)
	for n := first; n < o.images; n++ {
		lowers = append(lowers, o.view.Name(n))
	}
	opts := []string{"lowerdir=" + strings.Join(lowers, ":")}
	if o.upper {
		top := "m" + o.view.Name(0)
		opts = append(opts, "upperdir="+filepath.Join(top, crypt.DirDiff), "workdir="+filepath.Join(top, crypt.DirWork))
	}
	for _, f := range overlayFeatures {
		if _, err := os.Stat(filepath.Join(overlayParameters, f.parameter)); err == nil {
			opts = append(opts, f.option)
		}
	}
	data := label.FormatMountLabel(strings.Join(opts, ","), o.label)
	if len(data) > maxMountData {
		return "", fmt.Errorf("%w: %d lower layers do not fit the kernel's %d bytes of mount options", layer.ErrTooDeep, len(lowers), maxMountData)
	}
	return data, nil
}

// mount mounts the overlay at an absolute path.
func (o overlay) mount(at string) error {
	data, err := o.data()
	if err != nil {
		return err
	}
	var flags uintptr
	if !o.upper {
		flags = unix.MS_RDONLY
	}
	if err := inDirectory(o.view.Dir, func() error {
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
