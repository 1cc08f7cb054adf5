//go:build deps

// Package deps pins modules while the packages that use them are being written.
package deps

import (
	_ "github.com/Microsoft/hcsshim/ext4/tar2ext4"
	_ "github.com/docker/go-plugins-helpers/sdk"
	_ "github.com/docker/go-plugins-helpers/volume"
	_ "github.com/docker/go-units"
	_ "github.com/freddierice/go-losetup"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/google/go-tpm/tpm2"
	_ "github.com/google/go-tpm/tpm2/transport/linuxtpm"
	_ "github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	_ "github.com/google/renameio/v2"
	_ "github.com/google/uuid"
	_ "github.com/moby/go-archive"
	_ "github.com/moby/sys/mount"
	_ "github.com/moby/sys/mountinfo"
	_ "github.com/moby/sys/user"
	_ "github.com/opencontainers/selinux/go-selinux/label"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "go.uber.org/goleak"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
)
