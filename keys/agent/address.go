package agent

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Address says where a key service is and how to speak to it.
type Address struct {
	scheme string
	target string // socket, host:port, or the command's path
	args   []string

	provider string // keyprovider: the name under which parameters are handed over
	params   []string

	ca, cert, key, serverName string // TLS: PEM files, name in the certificate

	keyID    string // workload-agent: UUID
	transfer string // workload-agent: transfer URL, instead of keyID
	interval time.Duration
	polls    int
	timeout  time.Duration // of one request
}

// The schemes of addresses.
const (
	schemeUnix     = "unix"    // keyprovider, gRPC on a unix socket
	schemeTLS      = "tls"     // keyprovider, gRPC over TLS
	schemeExec     = "exec"    // keyprovider, a command
	schemeWorkload = "wlagent" // workload-agent, net/rpc on a unix socket
)

// Bounds of the workload-agent's poll. Its clients ask 90 times, every 250 ms, for a key
// that is still on its way from the key server (MAXKEYPOLL in secureoverlay2).
const (
	maxPolls        = 90
	defaultInterval = 250 * time.Millisecond
	maxInterval     = time.Minute
)

// Bounds of one request. Attestation behind a key service takes seconds.
const (
	defaultTimeout = 30 * time.Second
	maxTimeout     = 10 * time.Minute
)

// Help explains addresses to people.
const Help = `unix:///run/keys.sock            keyprovider (ocicrypt), gRPC on a unix socket
  tls://host:port?ca=FILE          keyprovider over TLS; also cert=, key= and name=
  exec:///usr/bin/kp?arg=A&arg=B   keyprovider, a command
  wlagent:///run/wlagent.sock?id=UUID   workload-agent; url= instead of id=, interval=250ms, polls=90
All take timeout=30s; keyproviders take provider=NAME&param=VALUE.`

// Parse reads an address; see Help. The empty text gives the zero Address. Error:
// ErrBadAgent.
func Parse(text string) (Address, error) {
	if text == "" {
		return Address{}, nil
	}
	fail := func(format string, args ...any) (Address, error) {
		return Address{}, fmt.Errorf("%w: agent %q: %s", ErrBadAgent, text, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(text)
	if err != nil {
		return fail("%v", err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("%v", err)
	}
	a := Address{scheme: u.Scheme, target: u.Path, provider: "layervault", interval: defaultInterval, timeout: defaultTimeout}
	known := []string{"timeout", "provider", "param"}
	switch u.Scheme {
	case schemeUnix:
	case schemeTLS:
		a.target = u.Host
		known = append(known, "ca", "cert", "key", "name")
		if u.Port() == "" || u.Hostname() == "" || u.Path != "" {
			return fail("must be tls://host:port")
		}
	case schemeExec:
		a.args, known = query["arg"], append(known, "arg")
	case schemeWorkload:
		known = []string{"timeout", "id", "url", "interval", "polls"}
		a.polls = maxPolls
	default:
		return fail("scheme must be unix, tls, exec or wlagent")
	}
	if u.Scheme != schemeTLS && (u.Host != "" || !filepath.IsAbs(a.target)) {
		return fail("path must be absolute: %s:///path", u.Scheme)
	}
	if err := checkNames(query, known, u.Scheme); err != nil {
		return fail("%v", err)
	}
	if err := a.fill(query); err != nil {
		return fail("%v", err)
	}
	return a, nil
}

// checkNames rejects parameters that a scheme does not know, and duplicate ones.
func checkNames(query url.Values, known []string, scheme string) error {
	for name, values := range query {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown parameter %q for %s", name, scheme)
		}
		if name != "arg" && name != "param" && len(values) != 1 {
			return fmt.Errorf("duplicate parameter %q", name)
		}
	}
	return nil
}

func (a *Address) fill(query url.Values) (err error) {
	a.ca, a.cert, a.key, a.serverName = query.Get("ca"), query.Get("cert"), query.Get("key"), query.Get("name")
	if (a.cert == "") != (a.key == "") {
		return fmt.Errorf("cert and key must be set together")
	}
	a.params = query["param"]
	if v := query.Get("provider"); v != "" {
		a.provider = v
	}
	if a.timeout, err = duration(query, "timeout", defaultTimeout, maxTimeout); err != nil {
		return err
	}
	if a.scheme != schemeWorkload {
		return nil
	}
	if a.interval, err = duration(query, "interval", defaultInterval, maxInterval); err != nil {
		return err
	}
	if v := query.Get("polls"); v != "" {
		if a.polls, err = strconv.Atoi(v); err != nil || a.polls < 1 || a.polls > maxPolls {
			return fmt.Errorf("polls=%q: must be a number from 1 to %d", v, maxPolls)
		}
	}
	a.keyID, a.transfer = query.Get("id"), query.Get("url")
	if (a.keyID == "") == (a.transfer == "") {
		return fmt.Errorf("need exactly one of id= and url=")
	}
	if a.keyID != "" {
		id, err := uuid.Parse(a.keyID)
		if err != nil || id.Version() != 4 {
			return fmt.Errorf("id=%q is not a version 4 UUID", a.keyID)
		}
		a.keyID = id.String()
	}
	return nil
}

func duration(query url.Values, name string, def, most time.Duration) (time.Duration, error) {
	v := query.Get(name)
	if v == "" {
		return def, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 || d > most {
		return 0, fmt.Errorf("%s=%q: must be a duration such as 250ms, at most %s", name, v, most)
	}
	return d, nil
}

func (a Address) protocol() string {
	if a.scheme == schemeWorkload {
		return protocolWorkload
	}
	return protocolKeyprovider
}

// String is the address without its parameters, which may be secret.
func (a Address) String() string {
	if a.scheme == "" {
		return "no key service"
	}
	return strings.Join([]string{a.scheme, a.target}, "://")
}
