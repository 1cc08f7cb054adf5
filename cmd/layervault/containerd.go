package main

import "github.com/spf13/cobra"

func newContainerdCommand(a *app) *cobra.Command {
	return group("containerd", "Configure containerd and docker for layervault's snapshotter", newContainerdConfigCommand(a))
}
