// Package doctor looks for what a host lacks, and names the command that mends it. It changes
// nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"layervault/crypt"
	"layervault/engine"
	"layervault/keys"
	"layervault/keys/unlock"
)

// ErrHost says that an essential thing is missing on this host.
var ErrHost = errors.New("this host lacks something layervault needs")

// Verdict is the outcome of one check.
type Verdict = keys.Verdict

// The verdicts.
const (
	Good    = keys.Good
	Warning = keys.Warning // works, but should be mended
	Missing = keys.Missing // essential: nothing works without it
)

// Finding is what a check found.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Fix     string  `json:"fix,omitempty"` // the command that mends it
}

func ok(format string, args ...any) Finding {
	return Finding{Verdict: Good, Detail: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{Verdict: Warning, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

func lack(fix, format string, args ...any) Finding {
	return Finding{Verdict: Missing, Fix: fix, Detail: fmt.Sprintf(format, args...)}
}

// Check looks at one thing. A check never fails: what it cannot find out is a finding too.
type Check struct {
	Name string
	Run  func(ctx context.Context) []Finding
}

// Host says what is to be looked at: the settings of a plugin on this host.
type Host struct {
	Driver  string // name of the graph driver
	Persist string // folder that holds the vault
	Cipher  string // of new images
	Sector  int    // of new images, in bytes
	Verity  crypt.Verity
	Keys    unlock.Config
	// Engines is where the container engines are looked for.
	Engines engine.Host
	// Snapshotter is what containerd's configuration is to have.
	Snapshotter engine.Wanted
	// NextStep is the command to type after an error, "" for none.
	NextStep func(error) string
}

// Checks lists what is looked at, in the order in which one would mend it.
func (h Host) Checks() []Check {
	one := func(f func() Finding) func(context.Context) []Finding {
		return func(context.Context) []Finding { return []Finding{f()} }
	}
	checks := []Check{
		{"kernel", one(checkKernel)},
		{"dm-crypt", one(checkDM)},
		{"dm-verity", one(h.checkVerity)},
		{"loop", one(checkLoop)},
		{"filesystems", func(context.Context) []Finding { return checkFilesystems() }},
		{"erofs", one(checkEROFS)},
		{"inode numbers", one(checkInodes)},
		{"direct i/o", one(func() Finding { return checkDirectIO(h.Sector) })},
		{"cipher", one(func() Finding { return checkCipher(h.Cipher) })},
		{"kernel keys", one(checkKeyring)},
	}
	for _, k := range unlock.Kinds() {
		if k.Hardware != nil && k.Hardware.Check != nil {
			checks = append(checks, Check{strings.ToLower(k.Hardware.Title), func(ctx context.Context) []Finding { return h.checkHardware(ctx, k) }})
		}
	}
	return append(checks, []Check{
		{"e2fsprogs", one(checkTools)},
		{"docker", h.checkDocker},
		{"containerd", h.checkContainerd},
		{"docker tmp", one(checkDockerTmp)},
		{"data-root", func(ctx context.Context) []Finding { return []Finding{checkDataRoot(ctx, dockerSocket)} }},
		{"root", one(checkRoot)},
		{"persist", func(context.Context) []Finding { return checkPersist(h.Persist) }},
		{"swap", one(checkSwap)},
		{"key slots", h.checkSlots},
		{"recovery", func(ctx context.Context) []Finding { return []Finding{h.checkRecovery(ctx)} }},
	}...)
}

// Run makes the checks, one after the other. Error: ErrHost, with the names of the checks that
// found something essential missing.
func Run(ctx context.Context, checks []Check) ([]Finding, error) {
	findings := []Finding{}
	var lacks []string
	for _, c := range checks {
		for _, f := range c.Run(ctx) {
			f.Check = c.Name
			findings = append(findings, f)
			if f.Verdict == Missing {
				lacks = append(lacks, c.Name)
			}
		}
	}
	if len(lacks) > 0 {
		return findings, fmt.Errorf("%w: %s", ErrHost, strings.Join(lacks, ", "))
	}
	return findings, nil
}
