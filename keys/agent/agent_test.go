package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"layervault/keys"
)

var (
	binding = keys.Binding{RingID: "ring", SlotID: "slot", Provider: Name}
	tierKey = bytes.Repeat([]byte{0x5a}, keys.KeySize)
)

const keyID = "0f3c8e1e-5f0b-4c57-9d53-0a4a3d1c2b6e"

func provider(t *testing.T, addr string) *Provider {
	t.Helper()
	a, err := Parse(addr)
	if err != nil {
		t.Fatal(err)
	}
	return New(a)
}

func wrap(t *testing.T, addr string) json.RawMessage {
	t.Helper()
	raw, err := provider(t, addr).Wrap(t.Context(), binding, tierKey)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func expectOpen(t *testing.T, addr string, raw json.RawMessage) {
	t.Helper()
	got, err := provider(t, addr).Unwrap(t.Context(), binding, raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, tierKey) {
		t.Fatal("another key came back")
	}
}

// command makes a program that is a keyprovider of the given mode.
func command(t *testing.T, mode string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyprovider")
	script := "#!/bin/sh\n" + serverEnv + "=exec," + mode + ", exec " + os.Args[0] + "\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// socket is a path short enough for a unix socket.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// certificates makes a CA, and certificates of a server at 127.0.0.1 and a client.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey := newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	for i, name := range []string{"ca", "server", "client"} {
		key, template := newKey(), &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if name == "ca" {
			key, template = caKey, ca
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		put(name+".pem", "CERTIFICATE", der)
		if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			t.Fatal(err)
		}
		put(name+".key", "PRIVATE KEY", der)
	}
	return dir
}

// Every way to a service, there and back, and a slot that opens with a service that was
// started anew.
func TestThereAndBack(t *testing.T) {
	certs := certificates(t)
	tls := "?ca=" + certs + "/ca.pem&cert=" + certs + "/client.pem&key=" + certs + "/client.key"
	for name, begin := range map[string]func(t *testing.T) string{
		"gRPC": func(t *testing.T) string {
			path := socket(t)
			start(t, "unix", "good", path)
			return "unix://" + path
		},
		"TLS": func(t *testing.T) string {
			return "tls://" + start(t, "tls", "good", certs).addr + tls
		},
		"command": func(t *testing.T) string { return "exec://" + command(t, "good") },
		"workload-agent": func(t *testing.T) string {
			path := socket(t)
			start(t, "wlagent", "good", path)
			return "wlagent://" + path + "?id=" + keyID
		},
		"workload-agent, URL": func(t *testing.T) string {
			path := socket(t)
			start(t, "wlagent", "good", path)
			return "wlagent://" + path + "?url=https://kbs/v1/keys/" + keyID + "/transfer"
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw := wrap(t, begin(t))
			expectOpen(t, begin(t), raw)
			other := binding
			other.SlotID = "other"
			if _, err := provider(t, begin(t)).Unwrap(t.Context(), other, raw); !errors.Is(err, keys.ErrWrongKey) {
				t.Errorf("moved to another slot: %v", err)
			}
			d := New(Address{}).Describe(raw)
			if d.Software || d.Person || !strings.Contains(d.Detail, "://") || strings.Contains(d.Detail, "?") {
				t.Errorf("described as %+v", d)
			}
		})
	}
}

func TestBadAnswers(t *testing.T) {
	for _, mode := range []string{"short", "zero", "garbage", "refuse", "other"} {
		for kind, addr := range map[string]func(string) string{
			"unix": func(path string) string { return "unix://" + path },
			"exec": func(string) string { return "exec://" + command(t, mode) },
			"wlagent": func(path string) string {
				return "wlagent://" + path + "?id=" + keyID + "&interval=1ms&polls=3"
			},
		} {
			if kind == "wlagent" && (mode == "garbage" || mode == "other") {
				continue // gob has no garbage, and its server no other key
			}
			t.Run(kind+" "+mode, func(t *testing.T) {
				path := socket(t)
				if kind != "exec" {
					start(t, kind, mode, path)
				}
				if _, err := provider(t, addr(path)).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrAgent) {
					t.Fatalf("got %v", err)
				}
			})
		}
	}
}

// A service that is killed while it works on a request is an error at once, and no harm:
// the next try, with the service back, opens.
func TestKilledInMidRequest(t *testing.T) {
	for kind, query := range map[string]string{"unix": "", "wlagent": "?polls=1&id=" + keyID} {
		t.Run(kind, func(t *testing.T) {
			path := socket(t)
			addr := kind + "://" + path + query
			good := start(t, kind, "good", path)
			raw := wrap(t, addr)
			good.kill()
			hangs := start(t, kind, "hang", path)
			failed := make(chan error, 1)
			go func() {
				_, err := provider(t, addr).Unwrap(t.Context(), binding, raw)
				failed <- err
			}()
			hangs.waitAsked(t)
			hangs.kill()
			if err := <-failed; !errors.Is(err, ErrAgent) || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			start(t, kind, "good", path)
			expectOpen(t, addr, raw)
		})
	}
}

// A workload-agent that dies and comes back between two polls is no error at all.
func TestPollsOutlastARestart(t *testing.T) {
	path := socket(t)
	addr := "wlagent://" + path + "?id=" + keyID + "&interval=10ms"
	first := start(t, "wlagent", "good", path)
	raw := wrap(t, addr)
	first.kill()
	never := start(t, "wlagent", "never", path)
	done := make(chan error, 1)
	slow := "wlagent://" + path + "?id=" + keyID + "&interval=1s"
	go func() {
		got, err := provider(t, slow).Unwrap(t.Context(), binding, raw)
		if err == nil && !bytes.Equal(got, tierKey) {
			err = errors.New("another key")
		}
		done <- err
	}()
	never.waitAsked(t)
	never.kill()
	start(t, "wlagent", "late", path)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPollsAreBounded(t *testing.T) {
	path := socket(t)
	never := start(t, "wlagent", "never", path)
	_, err := provider(t, "wlagent://"+path+"?id="+keyID+"&interval=1ms&polls=5").Wrap(t.Context(), binding, tierKey)
	if !errors.Is(err, ErrAgent) || !strings.Contains(err.Error(), "asked 5 times") {
		t.Fatalf("got %v", err)
	}
	for range 5 {
		never.waitAsked(t)
	}
	if p := provider(t, "wlagent:///s?id="+keyID+"&interval=1m").Patience(); p < 90*time.Minute {
		t.Errorf("patience of %s for 90 polls a minute", p)
	}
}

func TestCancel(t *testing.T) {
	for kind, query := range map[string]string{"unix": "", "wlagent": "?id=" + keyID, "exec": ""} {
		t.Run(kind, func(t *testing.T) {
			path := socket(t)
			addr := kind + "://" + path + query
			var hangs *process
			var raw json.RawMessage
			if kind == "exec" {
				raw = wrap(t, "exec://"+command(t, "good"))
				addr = "exec://" + command(t, "hang")
			} else {
				good := start(t, kind, "good", path)
				raw = wrap(t, addr)
				good.kill()
				hangs = start(t, kind, "hang", path)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := provider(t, addr).Unwrap(ctx, binding, raw)
				done <- err
			}()
			if hangs != nil {
				hangs.waitAsked(t)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrAgent) {
				t.Fatalf("got %v", err)
			}
		})
	}
	t.Run("timeout", func(t *testing.T) {
		path := socket(t)
		good := start(t, "unix", "good", path)
		raw := wrap(t, "unix://"+path)
		good.kill()
		start(t, "unix", "hang", path)
		_, err := provider(t, "unix://"+path+"?timeout=50ms").Unwrap(t.Context(), binding, raw)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	for _, addr := range []string{"unix:///nonexistent/s", "exec:///nonexistent/kp", "tls://127.0.0.1:1?timeout=5s",
		"wlagent:///nonexistent/s?polls=2&interval=1ms&id=" + keyID} {
		if _, err := provider(t, addr).Wrap(t.Context(), binding, tierKey); !errors.Is(err, ErrAgent) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if _, err := New(Address{}).Wrap(t.Context(), binding, tierKey); !errors.Is(err, keys.ErrUnknownProvider) {
		t.Errorf("no address: %v", err)
	}
}

// Without the right certificate nothing is told to a server, nor by it.
func TestTLSIsChecked(t *testing.T) {
	certs, others := certificates(t), certificates(t)
	server := start(t, "tls", "good", certs)
	for name, query := range map[string]string{
		"unknown CA":             "?ca=" + others + "/ca.pem&cert=" + certs + "/client.pem&key=" + certs + "/client.key",
		"no client certificate":  "?ca=" + certs + "/ca.pem",
		"foreign certificate":    "?ca=" + certs + "/ca.pem&cert=" + others + "/client.pem&key=" + others + "/client.key",
		"another name":           "?name=example.org&ca=" + certs + "/ca.pem&cert=" + certs + "/client.pem&key=" + certs + "/client.key",
		"no such file":           "?ca=/nonexistent",
		"a CA file without a CA": "?ca=" + certs + "/ca.key",
	} {
		_, err := provider(t, "tls://"+server.addr+query).Wrap(t.Context(), binding, tierKey)
		if !errors.Is(err, ErrAgent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, good := range []string{"unix:///run/s", "unix:///run/s?provider=aa&param=x&param=y&timeout=2m", "tls://kms.example:443",
		"exec:///usr/bin/kp?arg=--config&arg=/etc/kp", "wlagent:///s?id=" + keyID, "wlagent:///s?url=https://x/y&polls=1&interval=1s"} {
		if _, err := Parse(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"unix:", "unix://run/s", "http://x", "/run/s", "tls://host", "tls://:1", "tls://h:1/p", "tls://h:1?cert=x",
		"exec:///kp?ca=x", "wlagent:///s", "wlagent:///s?id=x", "wlagent:///s?id=6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"wlagent:///s?id=" + keyID + "&url=x", "wlagent:///s?id=" + keyID + "&polls=91", "wlagent:///s?id=" + keyID + "&polls=0",
		"wlagent:///s?id=" + keyID + "&interval=2h", "unix:///s?timeout=-1s", "unix:///s?timeout=1s&timeout=2s", "unix:///s?%zz", "unix:///s?polls=3"} {
		if _, err := Parse(bad); !errors.Is(err, ErrBadAgent) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte("data"), frame([]byte("data")))
	f.Add(bytes.Repeat([]byte{7}, 300), []byte{0, 0, 0, 0, 2, 0x0a, 0})
	f.Fuzz(func(t *testing.T, data, raw []byte) {
		got, err := unframe(frame(data))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%x comes back as %x, %v", data, got, err)
		}
		_, _ = unframe(raw) // must not panic
	})
}

// What a command writes to standard error may be what it was given: it is never told.
func TestStandardErrorIsNotTold(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "kp")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntee "+dir+"/got >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := provider(t, "exec://"+script).Wrap(t.Context(), binding, bytes.Repeat([]byte{7}, keys.KeySize))
	if !errors.Is(err, ErrAgent) || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("got %v", err)
	}
	got, readErr := os.ReadFile(dir + "/got")
	if readErr != nil || len(got) < 64 {
		t.Fatalf("the command was given %q, %v", got, readErr)
	}
	for i := 0; i+16 <= len(got); i++ {
		if part := string(got[i : i+16]); strings.Contains(err.Error(), part) {
			t.Fatalf("told: %q", part)
		}
	}
}
