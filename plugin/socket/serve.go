package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
)

// Door is one protocol that is spoken on a socket.
type Door interface {
	// Implements is the door's name in the answer to /Plugin.Activate.
	Implements() string
	// Register adds the door's endpoints.
	Register(mux *http.ServeMux)
	// Drain refuses further requests and waits until those under way have ended, or until ctx
	// ends.
	Drain(ctx context.Context) error
}

// Handler answers for all doors. dockerd asks /Plugin.Activate of plugins that are not managed
// (sockets in /run/docker/plugins); the answer names the socket's whole set of doors at once.
func Handler(doors ...Door) http.Handler {
	mux := http.NewServeMux()
	names := make([]string, 0, len(doors))
	for _, d := range doors {
		d.Register(mux)
		names = append(names, d.Implements())
	}
	manifest := fmt.Sprintf("{\"Implements\": [\"%s\"]}\n", strings.Join(names, `", "`))
	mux.HandleFunc("/Plugin.Activate", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
		_, _ = io.WriteString(w, manifest) // a client that has gone asks again
	})
	return mux
}

// closePatience is how long a connection may take to become idle after the last request has been
// answered. It only bounds clients that connected without sending anything, or read slowly.
const closePatience = time.Second

// Serve answers on l, which it closes, until ctx ends. It then takes no new connection, lets
// requests under way finish for as long as patience allows, refuses those that still come on
// open connections, and closes the connections.
func Serve(ctx context.Context, l net.Listener, patience time.Duration, doors ...Door) error {
	// No timeouts: the clients are root's, dockerd keeps idle connections, and a layer's tar
	// takes as long as it takes.
	server := &http.Server{Handler: Handler(doors...)} //nolint:gosec // G112: see above
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("plugin socket: %w", err), server.Close())
	case <-ctx.Done():
	}
	// Closing the listener also removes the socket file: from here on dockerd tries again until
	// the next plugin answers.
	closed := l.Close()
	<-served //nolint:errcheck // only that the listener was closed
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := drain(ctx, doors); err != nil {
		return errors.Join(err, closed, server.Close())
	}
	ctx, cancel = context.WithTimeout(ctx, closePatience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		closed = errors.Join(closed, err)
	}
	return errors.Join(closed, server.Close())
}

// drain drains all doors at once.
func drain(ctx context.Context, doors []Door) error {
	errs := make([]error, len(doors))
	var all sync.WaitGroup
	for n, d := range doors {
		all.Go(func() { errs[n] = d.Drain(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}
