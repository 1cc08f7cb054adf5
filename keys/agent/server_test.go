package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "github.com/containers/ocicrypt/utils/keyprovider"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// A key service in a process of its own. How it behaves:
//
//	good     as it should
//	hang     tells that it was asked, and never answers
//	short    gives a key of 16 bytes
//	zero     gives zeros
//	garbage  answers something else
//	refuse   answers with an error
//	late     workload-agent: has the key at the third question
//	never    workload-agent: never has the key
//	other    gives another key each time
func serve(what string) {
	kind, rest, _ := strings.Cut(what, ",")
	mode, path, _ := strings.Cut(rest, ",")
	s := service{mode: mode}
	var l net.Listener
	var err error
	var options []grpc.ServerOption
	switch kind {
	case "exec":
		in, err := io.ReadAll(os.Stdin)
		check(err)
		out, err := s.answer(in)
		check(err)
		_, err = os.Stdout.Write(out)
		check(err)
		return
	case "tls":
		l, err = net.Listen("tcp", "127.0.0.1:0")
		check(err)
		options = append(options, grpc.Creds(credentials.NewTLS(serverTLS(path))))
	default:
		_ = os.Remove(path) // of one that was killed
		l, err = net.Listen("unix", path)
		check(err)
	}
	fmt.Println(l.Addr()) // ready
	if kind == "wlagent" {
		server := rpc.NewServer()
		check(server.RegisterName("VirtualMachine", &VirtualMachine{service: &s}))
		server.Accept(l)
		return
	}
	server := grpc.NewServer(options...)
	pb.RegisterKeyProviderServiceServer(server, &s)
	check(server.Serve(l))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serverTLS(dir string) *tls.Config {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	check(err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

type service struct {
	pb.UnimplementedKeyProviderServiceServer
	mode string

	mu    sync.Mutex
	asked int
}

func (s *service) ask() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	fmt.Println("asked")
	return s.asked
}

// sealer is the service's own key, the same in each process.
func sealer() cipher.AEAD {
	key := sha256.Sum256([]byte("the service's key"))
	block, err := aes.NewCipher(key[:])
	check(err)
	aead, err := cipher.NewGCMWithRandomNonce(block)
	check(err)
	return aead
}

// answer speaks the protocol as its specification has it, not as the client does.
func (s *service) answer(in []byte) ([]byte, error) {
	var r struct {
		Op   string `json:"op"`
		Wrap struct {
			EC   struct{ Parameters map[string][][]byte }
			Data []byte `json:"optsdata"`
		} `json:"keywrapparams"`
		Unwrap struct {
			Annotation []byte `json:"annotation"`
		} `json:"keyunwrapparams"`
	}
	if err := json.Unmarshal(in, &r); err != nil {
		return nil, err
	}
	out := map[string]any{}
	switch r.Op {
	case "keywrap":
		if _, named := r.Wrap.EC.Parameters["layervault"]; !named {
			return nil, errors.New("no parameters for this provider")
		}
		out["keywrapresults"] = map[string]any{"annotation": sealer().Seal(nil, nil, r.Wrap.Data, nil)}
	case "keyunwrap":
		key, err := sealer().Open(nil, nil, r.Unwrap.Annotation, nil)
		if err != nil {
			return nil, err
		}
		switch s.mode {
		case "short":
			key = key[:16]
		case "zero":
			clear(key)
		case "garbage":
			return []byte("garbage"), nil
		case "refuse":
			return nil, errors.New("attestation failed")
		case "hang":
			s.ask()
			select {}
		case "other":
			_, err = rand32(key)
			check(err)
		}
		out["keyunwrapresults"] = map[string]any{"optsdata": key}
	default:
		return nil, fmt.Errorf("no such operation %q", r.Op)
	}
	return json.Marshal(out)
}

func rand32(key []byte) (int, error) {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.ReadFull(f, key)
}

func (s *service) call(in *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	out, err := s.answer(in.GetKeyProviderKeyWrapProtocolInput())
	return &pb.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: out}, err
}

func (s *service) WrapKey(_ context.Context, in *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	return s.call(in)
}

func (s *service) UnWrapKey(_ context.Context, in *pb.KeyProviderKeyWrapProtocolInput) (*pb.KeyProviderKeyWrapProtocolOutput, error) {
	return s.call(in)
}

// VirtualMachine is the workload-agent's service.
type VirtualMachine struct{ service *service }

// FetchKey is the agent's method; its argument has a field that ours does not.
func (v *VirtualMachine) FetchKey(args *struct {
	KeyID      string
	Key        []byte
	ImageID    string
	ReturnCode bool
}, out *KeyInfo) error {
	n := v.service.ask()
	key := sha256.Sum256([]byte(args.KeyID))
	*out = KeyInfo{KeyID: args.KeyID, Key: key[:], ReturnCode: true}
	switch {
	case v.service.mode == "hang":
		select {}
	case v.service.mode == "never", v.service.mode == "late" && n%3 != 0:
		*out = KeyInfo{KeyID: args.KeyID, ReturnCode: n%2 == 0} // both forms of "not yet"
	case v.service.mode == "refuse":
		return errors.New("1: error while unwrapping the key")
	case v.service.mode == "short":
		out.Key = key[:16]
	case v.service.mode == "zero":
		out.Key = make([]byte, 32)
	}
	return nil
}

// FetchKeyWithURL is the agent's method.
func (v *VirtualMachine) FetchKeyWithURL(args *TransferURL, out *KeyOnly) error {
	key := sha256.Sum256([]byte(args.URL))
	*out = KeyOnly{KeyUrl: args.URL, Key: key[:]}
	return nil
}

// process is a running service.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	addr  string
}

// start runs a service; it ends with the test.
func start(t *testing.T, kind, mode, path string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+kind+","+mode+","+path)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(p.kill)
	if !p.lines.Scan() {
		t.Fatalf("the service does not start: %s", stderr.String())
	}
	p.addr = p.lines.Text()
	return p
}

// waitAsked returns when a request has arrived.
func (p *process) waitAsked(t *testing.T) {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatal("the service was not asked")
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
