// Command layervault keeps container storage encrypted on disk: it is the Docker
// graph driver plugin, and the tool that manages its keys, volumes and layers.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"layervault/keys"
)

func main() { os.Exit(mainStatus()) }

func mainStatus() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := keys.NoCoreDumps(); err != nil {
		slog.Warn("a crash could leave keys in a core dump", "err", err)
	}
	return run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.Getenv)
}
