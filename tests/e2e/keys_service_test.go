//go:build guest

package e2e

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	pb "github.com/containers/ocicrypt/utils/keyprovider"
	"google.golang.org/grpc"
)

const serviceSocket = "/persist/e2e-keys.sock" // the plugin sees no other folder of the host

// keyService: keyservice SOCKET good|hang is an ocicrypt keyprovider in a process of its own. It
// prints a line when it is ready, and one for each key that it is asked to unwrap; with hang it
// then never answers.
func keyService(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: keyservice SOCKET good|hang")
	}
	_ = os.Remove(args[0]) // of one that was killed
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	server := grpc.NewServer()
	pb.RegisterKeyProviderServiceServer(server, &service{hang: args[1] == "hang"})
	return server.Serve(l)
}

type service struct {
	pb.UnimplementedKeyProviderServiceServer
	hang bool
}

// sealer is the service's own key, the same in each process.
func sealer() (cipher.AEAD, error) {
	key := sha256.Sum256([]byte("the service's key"))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s *service) WrapKey(_ context.Context, in *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	var r struct {
		Params struct {
			Data []byte `json:"optsdata"`
		} `json:"keywrapparams"`
	}
	if err := json.Unmarshal(in.GetKeyProviderKeyWrapProtocolInput(), &r); err != nil {
		return nil, err
	}
	aead, err := sealer()
	if err != nil {
		return nil, err
	}
	return answer("keywrapresults", "annotation", aead.Seal(nil, nil, r.Params.Data, nil))
}

func (s *service) UnWrapKey(ctx context.Context, in *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	var r struct {
		Params struct {
			Annotation []byte `json:"annotation"`
		} `json:"keyunwrapparams"`
	}
	if err := json.Unmarshal(in.GetKeyProviderKeyWrapProtocolInput(), &r); err != nil {
		return nil, err
	}
	fmt.Println("asked")
	if s.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	aead, err := sealer()
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, nil, r.Params.Annotation, nil)
	if err != nil {
		return nil, err
	}
	return answer("keyunwrapresults", "optsdata", key)
}

func answer(result, field string, data []byte) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	out, err := json.Marshal(map[string]any{result: map[string]any{field: data}})
	return &pb.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: out}, err
}

// serviceProcess is a running service.
type serviceProcess struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startService(t *testing.T, mode string) *serviceProcess {
	t.Helper()
	cmd := exec.Command("keyservice", serviceSocket, mode)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &serviceProcess{cmd, bufio.NewScanner(out)}
	t.Cleanup(p.kill)
	if !p.lines.Scan() {
		t.Fatal("the key service does not start")
	}
	return p
}

func (p *serviceProcess) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// A key service is killed while dockerd's plugin waits for its answer: the engine says so
// within moments, not after a timeout, and comes up when the service is back.
func TestKeysServiceKilled(t *testing.T) {
	if !encrypted() {
		return
	}
	// Clean-ups run from the last to the first: the vault has its TPM slot again when the
	// plugin is told to forget the service.
	t.Cleanup(func() {
		if out, err := run(context.Background(), "bash", "-euo", "pipefail", "-c", `rm -f "$1"; stop-docker
			start-docker overlay2; docker plugin disable -f layervault; docker plugin set layervault agent= key=tpm; docker plugin enable --timeout 0 layervault; stop-docker
			start-docker layervault`, "bash", serviceSocket); err != nil {
			t.Errorf("take the setting back: %v\n%s", err, out)
		}
	})
	testRing(t)
	good := startService(t, "good")
	sh(t, `layervault key enroll agent --label kms --agent "unix://$1"`, serviceSocket)
	keepSlots(t, "kms")
	stop(t)
	// ten minutes: what ends the wait is the end of the service
	setPlugin(t, "key=agent", "agent=unix://"+serviceSocket+"?timeout=10m")
	start(t)
	works(t)
	stop(t)
	good.kill()

	hanging := startService(t, "hang")
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := run(t.Context(), "start-docker", "layervault")
		done <- result{out, err}
	}()
	if !hanging.lines.Scan() {
		t.Fatal("the plugin does not ask the service")
	}
	hanging.kill()
	select {
	case r := <-done:
		if r.err == nil {
			t.Error("dockerd started without the vault's key")
			stop(t)
		}
		contains(t, "dockerd's log", r.out, "no key from the key service", serviceSocket)
	case <-time.After(startTime):
		t.Fatal("dockerd hangs after its key service was killed")
	}

	startService(t, "good")
	start(t)
	works(t)
	noLeaks(t)
}
