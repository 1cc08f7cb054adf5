package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// The messages of the keyprovider protocol (ocicrypt, docs/keyprovider.md), JSON in a
// bytes field of gRPC or on a command's standard input and output. ocicrypt's own client
// is not used: it cannot be cancelled, and brings its other key wrappers along.
type (
	request struct {
		Op     string        `json:"op"` // "keywrap" or "keyunwrap"
		Wrap   *wrapParams   `json:"keywrapparams,omitempty"`
		Unwrap *unwrapParams `json:"keyunwrapparams,omitempty"`
	}
	wrapParams struct {
		Config encryptConfig `json:"ec"`
		Data   []byte        `json:"optsdata"`
	}
	unwrapParams struct {
		Config     decryptConfig `json:"dc"`
		Annotation []byte        `json:"annotation"`
	}
	encryptConfig struct {
		Parameters    map[string][][]byte
		DecryptConfig decryptConfig
	}
	decryptConfig struct {
		Parameters map[string][][]byte
	}
	response struct {
		Wrap struct {
			Annotation []byte `json:"annotation"`
		} `json:"keywrapresults"`
		Unwrap struct {
			Data []byte `json:"optsdata"`
		} `json:"keyunwrapresults"`
	}
)

// maxResponse bounds what a service may answer, in bytes: an annotation is a wrapped key
// of 32 bytes and what names it, and goes into the ring.
const maxResponse = 64 << 10

func (p *Provider) wrap(ctx context.Context, kek []byte) ([]byte, error) {
	config := encryptConfig{Parameters: p.parameters(), DecryptConfig: decryptConfig{Parameters: map[string][][]byte{}}}
	out, err := p.ask(ctx, request{Op: "keywrap", Wrap: &wrapParams{Config: config, Data: kek}})
	if err != nil {
		return nil, err
	}
	defer clear(out.Unwrap.Data)
	if len(out.Wrap.Annotation) == 0 || bytes.Contains(out.Wrap.Annotation, kek) {
		return nil, fmt.Errorf("%w: %s returned an empty or unwrapped key", ErrAgent, p.addr)
	}
	return out.Wrap.Annotation, nil
}

func (p *Provider) unwrap(ctx context.Context, annotation []byte) ([]byte, error) {
	out, err := p.ask(ctx, request{Op: "keyunwrap", Unwrap: &unwrapParams{
		Config: decryptConfig{Parameters: p.parameters()}, Annotation: annotation,
	}})
	if err != nil {
		return nil, err
	}
	return out.Unwrap.Data, nil
}

// parameters are for the service, under its name; it may want none, and must be named
// all the same.
func (p *Provider) parameters() map[string][][]byte {
	values := [][]byte{}
	for _, v := range p.addr.params {
		values = append(values, []byte(v))
	}
	return map[string][][]byte{p.addr.provider: values}
}

func (p *Provider) ask(ctx context.Context, r request) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, p.addr.timeout)
	defer cancel()
	in, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	defer clear(in)
	call := p.askGRPC
	if p.addr.scheme == schemeExec {
		call = p.askCommand
	}
	raw, err := call(ctx, r.Op, in)
	if err != nil {
		// The context's end, told by the transport in its own words.
		if ctxErr := ctx.Err(); ctxErr != nil {
			err = ctxErr
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrAgent, p.addr, err)
	}
	defer clear(raw)
	var out response
	if err := json.Unmarshal(raw, &out); err != nil {
		// Not the error's text: it may quote what was to be the key.
		return nil, fmt.Errorf("%w: %s: response is not of the keyprovider protocol", ErrAgent, p.addr)
	}
	return &out, nil
}

// killDelay bounds the wait for the pipes of a command that was killed: children of
// its own may hold them.
const killDelay = 2 * time.Second

func (p *Provider) askCommand(ctx context.Context, _ string, in []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.addr.target, p.addr.args...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(in), &limited{&out}, &limited{&complaint}, killDelay
	if err := cmd.Run(); err != nil {
		clear(out.Bytes())
		defer clear(complaint.Bytes())
		// Not what it wrote: that may be the key, or an echo of what it was given.
		return nil, fmt.Errorf("%w: %w: %d bytes on standard error, hidden because the key may be among them", ErrCommand, err, complaint.Len())
	}
	return out.Bytes(), nil
}

// limited takes maxResponse bytes and then fails, which ends the command.
type limited struct{ buf *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > maxResponse {
		return 0, io.ErrShortBuffer
	}
	return l.buf.Write(p)
}
