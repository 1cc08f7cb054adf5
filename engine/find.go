package engine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says who runs a containerd, and so whose configuration it has.
type Kind string

// The kinds of containerd.
const (
	// External: it runs by itself, with a configuration that is the administrator's.
	External Kind = "external"
	// Managed: dockerd started it, with a configuration that dockerd generates.
	Managed Kind = "managed"
	// BuiltIn: it is a part of dockerd.
	BuiltIn Kind = "built-in"
	// K3s: k3s or rke2 started it, with a configuration made from a template.
	K3s Kind = "k3s"
)

// Configurable says whether proxy plugins can be configured in it.
func (k Kind) Configurable() bool { return k == External || k == K3s }

const (
	defaultConfig  = "/etc/containerd/config.toml"
	defaultAddress = "/run/containerd/containerd.sock"
	defaultRoot    = "/var/lib/containerd"
	defaultDaemon  = "/etc/docker/daemon.json"
	managedAddress = "/run/docker/containerd/containerd.sock"
)

// Containerd is one containerd of the host.
type Containerd struct {
	Kind    Kind   `json:"kind"`
	PID     int    `json:"pid,omitempty"`     // 0 if it does not run
	Version string `json:"version,omitempty"` // "" if it could not be asked
	Config  string `json:"config,omitempty"`  // the file it reads
	Socket  string `json:"socket,omitempty"`
	Root    string `json:"root,omitempty"` // where it keeps its content and database

	program string // runs with `--version` and `config dump`; "" for none
}

// Dockerd is the running dockerd.
type Dockerd struct {
	PID    int    `json:"pid"`
	Config string `json:"config"` // daemon.json
	// Containerd is the socket of the containerd that it uses, "" for its own.
	Containerd string `json:"containerd,omitempty"`
	// ByFlag: that socket is on the command line, and must not be in daemon.json too.
	ByFlag bool `json:"containerd_by_flag,omitempty"`
}

// Found is what Find finds.
type Found struct {
	Containerds []Containerd `json:"containerds"`
	Dockerd     *Dockerd     `json:"dockerd,omitempty"`
}

// patience bounds what is asked of one containerd while it is looked for.
const patience = 5 * time.Second

// ErrNone: there is no containerd on the host.
var ErrNone = errors.New("no containerd on this host")

// Target is the containerd that layervault can be configured in, or else the one that explains why
// not. Of several the one that dockerd uses, or that runs, is first. Error: ErrNone.
func (f Found) Target() (Containerd, error) {
	if len(f.Containerds) == 0 {
		return Containerd{}, ErrNone
	}
	best := f.Containerds[0]
	for _, c := range f.Containerds {
		used := f.Dockerd != nil && f.Dockerd.Containerd == c.Socket
		if c.Kind.Configurable() && (used || !best.Kind.Configurable()) {
			best = c
		}
	}
	return best, nil
}

// Root is where the containerd that layervault is configured in keeps its database; the usual
// place where there is none.
func (f Found) Root() string {
	if c, err := f.Target(); err == nil && c.Root != "" {
		return c.Root
	}
	return defaultRoot
}

// DaemonConfig is dockerd's daemon.json.
func DaemonConfig(f Found) string {
	if f.Dockerd != nil {
		return f.Dockerd.Config
	}
	return defaultDaemon
}

// Host is where to look: "/" but for tests.
type Host struct {
	Proc string // "" for /proc
	Root string // before every path that is read, "" for none
	Path string // where an installed containerd is looked for, "" for the usual folders of programs
}

// process is what /proc says of a process.
type process struct {
	pid, parent int
	args        []string
}

// Find looks for every containerd and for dockerd among the processes. If none runs that can be
// configured, an installed one counts, with its default configuration. Processes of containers
// are left out: they are in another mount namespace.
func (h Host) Find(ctx context.Context) Found {
	all := h.processes()
	var found Found
	daemons := map[int]bool{}
	for _, p := range all {
		if filepath.Base(p.args[0]) == "dockerd" {
			daemons[p.pid] = true
			found.Dockerd = h.dockerdOf(p)
		}
	}
	for _, p := range all {
		if filepath.Base(p.args[0]) == "containerd" {
			found.Containerds = append(found.Containerds, h.containerdOf(ctx, p, daemons[p.parent]))
		}
	}
	found.assign()
	if !slices.ContainsFunc(found.Containerds, func(c Containerd) bool { return c.Kind.Configurable() }) {
		if program := h.installed("containerd"); program != "" {
			c := Containerd{Kind: External, Config: defaultConfig, program: program}
			h.complete(ctx, &c)
			found.Containerds = append(found.Containerds, c)
		}
	}
	return found
}

// assign says which containerd dockerd uses if it was told of none: the one at the usual socket,
// or else its own, which is a process of its own or a part of dockerd.
func (f *Found) assign() {
	d := f.Dockerd
	has := func(is func(c Containerd) bool) bool { return slices.ContainsFunc(f.Containerds, is) }
	switch {
	case d == nil || d.Containerd != "" || has(func(c Containerd) bool { return c.Kind == Managed }):
	case has(func(c Containerd) bool { return c.Kind == External && c.Socket == defaultAddress }):
		d.Containerd = defaultAddress
	default:
		f.Containerds = append(f.Containerds, Containerd{Kind: BuiltIn, PID: d.PID, Socket: managedAddress})
	}
}

func (h Host) proc(parts ...string) string {
	root := h.Proc
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

// At is a path of the host.
func (h Host) At(path string) string { return filepath.Join(h.Root, path) }

// processes lists the processes of this mount namespace that have a command line.
func (h Host) processes() (all []process) {
	entries, err := os.ReadDir(h.proc())
	if err != nil {
		return nil
	}
	own, _ := os.Readlink(h.proc("self", "ns", "mnt")) // "" in tests
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(h.proc(e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		if its, _ := os.Readlink(h.proc(e.Name(), "ns", "mnt")); own != its {
			continue
		}
		stat, _ := os.ReadFile(h.proc(e.Name(), "stat"))
		all = append(all, process{pid: pid, parent: parentIn(string(stat)), args: strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")})
	}
	return all
}

// parentIn is the parent of a process, by its line of /proc: "pid (name) state parent ...". The
// name may hold anything.
func parentIn(stat string) int {
	_, rest, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	if fields := strings.Fields(rest); len(fields) > 1 {
		if n, err := strconv.Atoi(fields[1]); err == nil {
			return n
		}
	}
	return 0
}

// flagOf is the value of a flag on a command line, "" for none. Both forms of both spellings
// count: -c X, -c=X, --config X, --config=X.
func flagOf(args []string, names ...string) string {
	for n, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case !strings.HasPrefix(arg, "-") || !slices.Contains(names, name):
		case joined:
			return value
		case n+1 < len(args):
			return args[n+1]
		}
	}
	return ""
}

func (h Host) dockerdOf(p process) *Dockerd {
	d := &Dockerd{PID: p.pid, Config: flagOf(p.args, "config-file"), Containerd: flagOf(p.args, "containerd")}
	if d.Config == "" {
		d.Config = defaultDaemon
	}
	d.ByFlag = d.Containerd != ""
	if !d.ByFlag {
		if settings, err := readDaemon(h.At(d.Config)); err == nil {
			d.Containerd = settings.text("containerd")
		}
	}
	return d
}

// templated are the folders of configurations that k3s and rke2 make from a template.
var templated = regexp.MustCompile(`/agent/etc/containerd/config\.toml$`)

func (h Host) containerdOf(ctx context.Context, p process, ofDocker bool) Containerd {
	c := Containerd{Kind: External, PID: p.pid, Config: flagOf(p.args, "c", "config"), Socket: flagOf(p.args, "a", "address"), Root: flagOf(p.args, "root")}
	switch {
	case ofDocker:
		c.Kind = Managed
	case templated.MatchString(c.Config):
		c.Kind = K3s
	}
	if c.Config == "" {
		c.Config = defaultConfig
	}
	if c.Kind == External { // k3s's program is many, chosen by its name
		c.program = h.proc(strconv.Itoa(p.pid), "exe")
	}
	h.complete(ctx, &c)
	return c
}

// complete adds what the configuration and the program say.
func (h Host) complete(ctx context.Context, c *Containerd) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	settings, err := h.Read(c.Config)
	if err != nil {
		settings = &Settings{} // said where it matters
	}
	for _, one := range []struct {
		value           *string
		configured, def string
	}{{&c.Socket, settings.Address, defaultAddress}, {&c.Root, settings.Root, defaultRoot}} {
		if *one.value == "" {
			*one.value = one.configured
		}
		if *one.value == "" {
			*one.value = one.def
		}
	}
	if c.PID != 0 {
		if asked, err := Dial(h.At(c.Socket)); err == nil {
			c.Version, _ = asked.Version(ctx)
			_ = asked.Close()
		}
	}
	if c.Version == "" && c.program != "" {
		c.Version = versionOf(ctx, c.program)
	}
}

// versionOf asks a program: "containerd github.com/containerd/containerd 1.7.24~ds1 ...",
// "runc version 1.1.15+ds1".
func versionOf(ctx context.Context, program string) string {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	if fields := strings.Fields(string(out)); len(fields) > 2 {
		return strings.TrimPrefix(fields[2], "v")
	}
	return ""
}

// installed is a program of that name, "" for none.
func (h Host) installed(name string) string {
	path := h.Path
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/bin"
	}
	for _, dir := range filepath.SplitList(path) {
		program := h.At(filepath.Join(dir, name))
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return program
		}
	}
	return ""
}

// numbers are the first three numbers of a version, "1.7.24~ds1" or "v2.4.2".
var numbers = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?`)

// AtLeast says whether a version is not before another. One that cannot be read is not.
func AtLeast(version string, major, minor, patch int) bool {
	m := numbers.FindStringSubmatch(version)
	if m == nil {
		return false
	}
	var have [3]int
	for n := range have {
		have[n], _ = strconv.Atoi(m[n+1]) // "" is 0
	}
	return slices.Compare(have[:], []int{major, minor, patch}) >= 0
}
