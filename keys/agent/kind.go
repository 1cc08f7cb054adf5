package agent

import (
	"context"

	"layervault/keys"
)

// flagAgent is the provider's flag.
const flagAgent = "agent"

// Kind is this provider for the list of all.
func Kind() keys.Kind {
	return keys.Kind{
		Name:  Name,
		About: "a key service (--agent) unwraps the key; the plugin needs the setting agent= too",
		Help:  "Key services:\n  " + Help,
		Flags: []keys.Flag{{
			Name: flagAgent, For: keys.ForSettings | keys.ForKeys, Env: true,
			Usage: "address of the key service of agent slots, such as unix:///run/keys.sock; see key enroll --help",
		}},
		New:  func(_ context.Context, s keys.Settings) (keys.Provider, error) { return fromSettings(s) },
		Open: fromSettings,
		Faults: []keys.Fault{
			{Err: ErrCommand, Class: keys.ClassHost, Telling: true, Step: "run the command of the key service by hand, to see what it says; or: layervault key recover"},
			{Err: ErrAgent, Class: keys.ClassHost, Telling: true, Step: "check the key service and try again; or: layervault key recover"},
			{Err: ErrBadAgent, Class: keys.ClassUsage, Step: "layervault key enroll --help shows the addresses of key services"},
		},
	}
}

func fromSettings(s keys.Settings) (keys.Provider, error) {
	addr, err := Parse(s.Set[flagAgent])
	if err != nil {
		return nil, err
	}
	return New(addr), nil
}
