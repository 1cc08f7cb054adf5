package main

import (
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"layervault/keys/tpm/swtpmtest"
)

// TestKeyScripts runs testdata/key: each script has two emulated TPMs that measured a
// boot, $TPM and $TPM2, one that did not, $BLANK, a folder for sockets, $SOCKETS, and the command "extend PCR" for the first.
func TestKeyScripts(t *testing.T) {
	type chip struct{}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/key",
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"key", "pcrs", "persist", "tpm", "agent", "source", "pin-file", "allow-zero-pcrs", "anchor"} {
				env.Setenv(name, "")
			}
			// A unix socket's path has at most 107 bytes, and $WORK may be longer.
			sockets, err := os.MkdirTemp("", "key")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(sockets) })
			env.Setenv("SOCKETS", sockets)
			first := swtpmtest.Start(env.T().(testing.TB)).Boot()
			env.Values[chip{}] = first
			env.Setenv("TPM", first.Socket)
			env.Setenv("BLANK", swtpmtest.Start(env.T().(testing.TB)).Socket)
			env.Setenv("TPM2", swtpmtest.Start(env.T().(testing.TB)).Boot().Socket)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"post":  post,
			"extend": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: extend PCR")
				}
				pcr, err := strconv.Atoi(args[0])
				ts.Check(err)
				ts.Value(chip{}).(*swtpmtest.TPM).Extend(pcr, "changed")
			},
		},
	})
}
