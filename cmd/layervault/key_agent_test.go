package main

import (
	"crypto/sha256"
	"net"
	"net/rpc"
	"os"

	"layervault/keys/agent"
)

// VirtualMachine is a workload-agent that derives its keys from their ids.
type VirtualMachine struct{}

// FetchKey is the workload-agent's method.
func (VirtualMachine) FetchKey(args *agent.KeyInfo, out *agent.KeyInfo) error {
	key := sha256.Sum256([]byte(args.KeyID))
	*out = agent.KeyInfo{KeyID: args.KeyID, Key: key[:], ReturnCode: true}
	return nil
}

// workloadAgent is the scripts' command "workload-agent SOCKET", a key service that runs
// until it is killed.
func workloadAgent() {
	server := rpc.NewServer()
	err := server.RegisterName("VirtualMachine", VirtualMachine{})
	if err == nil {
		var l net.Listener
		if l, err = net.Listen("unix", os.Args[1]); err == nil {
			server.Accept(l)
		}
	}
	_, _ = os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}
