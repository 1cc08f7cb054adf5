package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what a migration asks of this machine.
type Host struct {
	// Vault is the folder where layers of the new engine go, and Content that where its containerd
	// keeps compressed layers.
	Vault, Content string
	// OnVault says whether a folder is on a volume of the vault.
	OnVault func(dir string) (bool, error)
}

// space is the free space for dir, and the file system that it is of. A folder that does not exist
// yet has that of its parent.
func space(dir string) (free int64, device uint64, err error) {
	for {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		var f unix.Statfs_t
		if err == nil {
			err = unix.Statfs(dir, &f)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("space of %s: %w", dir, err)
		}
		return int64(f.Bavail) * int64(f.Bsize), st.Dev, nil
	}
}

// tempFolder is where the engine writes an image while it saves it: DOCKER_TMPDIR, or a folder in
// its data-root.
func tempFolder(ctx context.Context, address, root string) string {
	if dir := peerEnv(ctx, strings.TrimPrefix(address, "unix://"), "DOCKER_TMPDIR"); dir != "" {
		return dir
	}
	return filepath.Join(root, "tmp")
}

// peerEnv is a variable in the environment of the process that listens at a socket; "" where that
// cannot be told, as with sockets that systemd made.
func peerEnv(ctx context.Context, socket, variable string) string {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return ""
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ""
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil || peer.Pid == 1 {
		return ""
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(peer.Pid)), "environ"))
	if err != nil {
		return ""
	}
	for _, v := range strings.Split(string(environ), "\x00") {
		if value, found := strings.CutPrefix(v, variable+"="); found {
			return value
		}
	}
	return ""
}
