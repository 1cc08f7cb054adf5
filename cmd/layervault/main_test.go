package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"layervault/vault/vaulttest"
)

func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"layervault": main, "workload-agent": workloadAgent, "layervault-forge": forgeRing})
}

// leakless checks for leftover goroutines after the tests of this process. The
// scripts' commands run in processes of their own.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	status := l.m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return status
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			// A setting in the environment of whoever runs the tests is none of theirs.
			for _, name := range []string{"key", "pcrs", "agent", "source", "tpm", "pin-file", "allow-zero-pcrs", "anchor", "size", "cipher", "sector", "verity", "upgrade", "seal-committed", "loglevel", "persist", "downloader", "verifier", "case", "areasize", "floor"} {
				env.Setenv(name, "")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":         exits,
			"post":          post,
			"old":           oldVault,
			"docker-engine": dockerEngine,
		},
	})
}

// oldVault makes a folder a /persist of format 1: old DIR.
func oldVault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: old DIR")
	}
	ts.Check(vaulttest.Unpack(ts.MkAbs(args[0])))
}

// exits runs a command line and checks its exit status: exits 3 layervault status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// post asks a plugin: post SOCKET METHOD BODY. The answer becomes stdout. It waits
// for the socket, which a plugin that was just started may not have made yet.
func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: post SOCKET METHOD BODY")
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			for {
				conn, err := new(net.Dialer).DialContext(ctx, "unix", args[0])
				if err == nil || ctx.Err() != nil {
					return conn, err
				}
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		},
	}, Timeout: time.Minute}
	res, err := client.Post("http://plugin/"+args[1], "", strings.NewReader(args[2]))
	ts.Check(err)
	defer res.Body.Close()
	_, err = io.Copy(ts.Stdout(), res.Body)
	ts.Check(err)
}
