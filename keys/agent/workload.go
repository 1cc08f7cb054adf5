package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"time"
)

// The messages of the workload-agent (Intel SecL, versions 2.2 to 3.6), net/rpc with
// gob on a unix socket. Gob goes by field names, so these are the agent's.
type (
	// KeyInfo is argument and result of VirtualMachine.FetchKey.
	KeyInfo struct {
		KeyID      string // UUID, version 4
		Key        []byte
		ReturnCode bool // false: not yet, ask again
	}
	// TransferURL is the argument of VirtualMachine.FetchKeyWithURL.
	TransferURL struct{ URL string }
	// KeyOnly is its result.
	KeyOnly struct {
		KeyUrl string // the agent's spelling, which is on the wire
		Key    []byte
	}
)

// errNotYet: the agent answered that it has no key so far.
var errNotYet = errors.New("service has no such key yet")

// poll asks for the key until the agent has it: at most the set number of times. An agent
// that is not there, breaks off or complains is asked again too: it may be starting.
func (p *Provider) poll(ctx context.Context, keyID string) ([]byte, error) {
	tick := time.NewTicker(p.addr.interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		key, err := p.fetchOnce(ctx, keyID)
		if err == nil {
			return key, nil
		}
		if ctx.Err() == nil && n == p.addr.polls {
			return nil, fmt.Errorf("%w: %s, asked %d times: %w", ErrAgent, p.addr, n, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %s, asked %d times (%w): %w", ErrAgent, p.addr, n, err, ctx.Err())
		}
	}
}

// fetchOnce makes one call on a connection of its own; closing that ends a call that
// gets no answer.
func (p *Provider) fetchOnce(ctx context.Context, keyID string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, p.addr.timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.addr.target)
	if err != nil {
		return nil, err
	}
	client := rpc.NewClient(conn)
	defer client.Close()

	var info KeyInfo
	var only KeyOnly
	var call *rpc.Call
	if p.addr.transfer != "" {
		call = client.Go("VirtualMachine.FetchKeyWithURL", &TransferURL{URL: p.addr.transfer}, &only, make(chan *rpc.Call, 1))
	} else {
		call = client.Go("VirtualMachine.FetchKey", &KeyInfo{KeyID: keyID}, &info, make(chan *rpc.Call, 1))
	}
	select {
	case <-call.Done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if call.Error != nil {
		return nil, call.Error
	}
	if p.addr.transfer != "" {
		info = KeyInfo{Key: only.Key, ReturnCode: true}
	}
	if !info.ReturnCode || len(info.Key) == 0 {
		return nil, errNotYet
	}
	return info.Key, nil
}
