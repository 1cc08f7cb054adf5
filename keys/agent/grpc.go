package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
)

// This is as much of gRPC as two unary methods with one field take ("gRPC over HTTP2" in
// the protocol's documentation). Go's own HTTP/2 does the work: the gRPC library would
// add 6 MB to the program and 4 MB to the memory of every plugin, few of which have a
// key service. The tests run against that library's server.

// rpcMethods are the paths of the operations (keyprovider.proto).
var rpcMethods = map[string]string{
	"keywrap":   "/keyprovider.KeyProviderService/WrapKey",
	"keyunwrap": "/keyprovider.KeyProviderService/UnWrapKey",
}

// framePrefix is what precedes a message: one byte (1 if compressed), its length in four.
const framePrefix = 5

func (p *Provider) askGRPC(ctx context.Context, op string, in []byte) (_ []byte, err error) {
	dial := dialer{network: "unix", address: p.addr.target}
	target := url.URL{Scheme: "http", Host: "localhost", Path: rpcMethods[op]}
	transport := &http.Transport{DialContext: dial.dial, DisableCompression: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	if p.addr.scheme == schemeTLS {
		dial.network, dial.address = "tcp", p.addr.target
		target.Scheme, target.Host = "https", p.addr.target
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP2(true)
		if transport.TLSClientConfig, err = p.addr.tls(); err != nil {
			return nil, err
		}
	}
	defer transport.CloseIdleConnections()
	// And what is not idle, after a request that was cancelled.
	defer dial.close()

	message := frame(in)
	defer clear(message)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP status %s: not a gRPC service", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil {
		clear(body)
		return nil, err
	}
	if len(body) > maxResponse {
		clear(body)
		return nil, fmt.Errorf("response exceeds %d bytes", maxResponse)
	}
	if err := rpcStatus(res); err != nil {
		clear(body)
		return nil, err
	}
	return unframe(body)
}

// maxMessage is how much of a service's own message is told, in bytes.
const maxMessage = 300

// rpcStatus reads the outcome of a call, which follows the body, or stands in its place.
func rpcStatus(res *http.Response) error {
	from := res.Trailer
	if from.Get("Grpc-Status") == "" {
		from = res.Header
	}
	switch code := from.Get("Grpc-Status"); code {
	case "0":
		return nil
	case "":
		return errors.New("response is truncated")
	default:
		// Percent-encoded; undecodable text is told as it is.
		text := from.Get("Grpc-Message")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return fmt.Errorf("gRPC status %s: %q", code, text[:min(len(text), maxMessage)])
	}
}

// bytesField is the tag of field number 1, of bytes, in protobuf.
const bytesField = 1<<3 | 2

// frame puts data into the only field of a message, and the message into a frame.
func frame(data []byte) []byte {
	out := make([]byte, framePrefix, framePrefix+1+binary.MaxVarintLen64+len(data))
	out = append(out, bytesField)
	out = binary.AppendUvarint(out, uint64(len(data)))
	out = append(out, data...)
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-framePrefix))
	return out
}

// errBadFrame: the body is not one message with one field.
var errBadFrame = errors.New("response is not a keyprovider message")

// unframe is the inverse of frame. The result lies in body.
func unframe(body []byte) ([]byte, error) {
	if len(body) < framePrefix || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-framePrefix) {
		return nil, errBadFrame
	}
	message := body[framePrefix:]
	if len(message) == 0 {
		return nil, nil // protobuf leaves empty fields out
	}
	size, n := binary.Uvarint(message[1:])
	if message[0] != bytesField || n <= 0 || size != uint64(len(message)-1-n) {
		return nil, errBadFrame
	}
	return message[1+n:], nil
}

// dialer makes the connections of one call, and ends them.
type dialer struct {
	network, address string

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func (d *dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, d.network, d.address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed { // the call ended while this was under way
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	d.conns = append(d.conns, conn)
	return conn, nil
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, conn := range d.conns {
		_ = conn.Close() // may be closed already
	}
}

func (a Address) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: a.serverName}
	if a.ca != "" {
		text, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("no certificate in %s", a.ca)
		}
	}
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
