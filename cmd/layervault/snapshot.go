package main

import "github.com/spf13/cobra"

func newSnapshotCommand(a *app) *cobra.Command {
	return group("snapshot", "Check the snapshots that containerd has here", newSnapshotCheckCommand(a))
}
