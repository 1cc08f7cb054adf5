package convert

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"layervault/internal/flock"
	"layervault/persist"
)

var (
	// ErrContainerd: containerd runs on the folder that is to be converted.
	ErrContainerd = errors.New("containerd is running")
	// ErrMigrating: a migration of EVE's own is half done.
	ErrMigrating = errors.New("a migration of EVE is half done")
)

// DefaultSockets are where EVE's containerds listen: the system's, and the one for applications.
var DefaultSockets = []string{"/run/containerd/containerd.sock", "/run/containerd-user/containerd.sock"}

// boltFile is containerd's database. Containerd locks it for as long as it runs, whatever it
// calls its folders in its own mount namespace.
const boltFile = containerdDir + "/io.containerd.metadata.v1.bolt/meta.db"

// refuseContainerd looks for a containerd that uses the old layout: by its lock, by its socket
// and by its open files.
func refuseContainerd(ctx context.Context, root *folder, sockets []string, users map[string]string) error {
	if there, err := root.exists(containerdDir); err != nil || !there {
		return err
	}
	if fd, err := openBeneath(root.fd, boltFile, unix.O_RDONLY|unix.O_NONBLOCK); err == nil {
		f := os.NewFile(uintptr(fd), boltFile)
		err := flock.TryLock(f, flock.Shared)
		_ = f.Close()
		if errors.Is(err, flock.ErrHeld) {
			return fmt.Errorf("%w: it has %s locked; stop it first", ErrContainerd, join(root.path, boltFile))
		}
	}
	for _, path := range sockets {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return fmt.Errorf("%w: it answers at %s; stop it first", ErrContainerd, path)
		}
	}
	if by := usedBelow(users, containerdDir); by != "" {
		return fmt.Errorf("%w: %s has files open in %s; stop it first", ErrContainerd, by, join(root.path, containerdDir))
	}
	return nil
}

// migrations are the traces of EVE's own migrations of a vault, below the root: of app volumes
// to another hypervisor (upgradeconverter, relocate_kvm_volumes.go) and of the vault between
// file systems (vault, ZFS handler: the copy, and the parked original).
var migrations = []string{
	"vault/volumes-kvm", "vault2", "vault.old", "status/vault-migration-swap",
}

// refuseMigration looks for traces of a migration.
func refuseMigration(root *folder) error {
	for _, path := range migrations {
		_, err := os.Lstat(filepath.Join(root.path, path))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: %s is there; let EVE finish it or fall back first", ErrMigrating, join(root.path, path))
	}
	// The name of one marker is not part of any interface: it says kvm and kube.
	names, err := namesIn(root, "status")
	if err != nil {
		return err
	}
	for _, n := range names {
		if low := strings.ToLower(n); strings.Contains(low, "kvm") && strings.Contains(low, "kube") {
			return fmt.Errorf("%w: %s is there; let EVE finish it or fall back first", ErrMigrating, join(root.path, "status/"+n))
		}
	}
	return nil
}

func namesIn(root *folder, dir string) ([]string, error) {
	at, err := openFolder(root, dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer at.close()
	return at.names()
}

// users finds the processes that have files of the old layout open, by path below the root.
// What a process has open in another mount namespace counts if it has the same path there.
func users(root string) (map[string]string, error) {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	own := strconv.Itoa(os.Getpid())
	for _, dir := range dirs {
		pid := filepath.Base(filepath.Dir(dir))
		if pid == own {
			continue
		}
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended, or it is not ours to see
		}
		for _, fd := range fds {
			path, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if rel, ok := strings.CutPrefix(path, strings.TrimSuffix(real, "/")+"/"); err == nil && ok && isOld(rel) {
				comm, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
				found[rel] = fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
			}
		}
	}
	return found, nil
}

// isOld says whether a path is in one of the old places.
func isOld(rel string) bool {
	for _, dir := range []string{imgDir, preparedDir, downloadsDir, containerdDir} {
		if rel == dir || strings.HasPrefix(rel, dir+"/") {
			return true
		}
	}
	return false
}

// usedBelow names a process that has a path open, or something below it; "" for none.
func usedBelow(users map[string]string, path string) string {
	for at, by := range users {
		if at == path || strings.HasPrefix(at, path+"/") {
			return by
		}
	}
	return ""
}

// openLayout opens the root of a layout, by a path that a person chose.
func openLayout(l persist.Layout) (*folder, error) {
	fd, err := unix.Open(l.Root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: l.Root, Err: err}
	}
	return newFolder(fd, l.Root), nil
}
