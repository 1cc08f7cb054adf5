package main

import (
	"testing"

	"github.com/spf13/pflag"

	"layervault/keys"
)

// What flags and the environment say of opening a tier does not describe a new slot, but in
// the plugin, which makes the vault from its settings.
func TestProviderFlags(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"pcrs": "7", "pin-file": "/pin"}[name]
	}
	var plugin providerFlags
	plugin.register(pflag.NewFlagSet("", pflag.ContinueOnError), env, keys.ForSettings)
	set, made := plugin.values()
	if set["pin-file"] != "/pin" || made["pin"] != "/pin" || set["pcrs"] != "7" || made["pcrs"] != "7" || set["tpm"] != "/dev/tpmrm0" {
		t.Errorf("plugin: %v, new %v", set, made)
	}

	var k keyFlags
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	k.register(f, env)
	if set, made = k.providers.values(); set["pin-file"] != "" || set["pcrs"] != "7" || len(made) != 0 || f.Lookup("pcrs") != nil {
		t.Errorf("a key verb: %v, new %v", set, made)
	}
	k.registerUnlock(f, env)
	k.providers.register(f, env, keys.ForReseal)
	if set, made = k.providers.values(); set["pin-file"] != "/pin" || made["pin"] != "" || made["pcrs"] != "" {
		t.Errorf("key reseal: %v, new %v", set, made)
	}
	if err := f.Parse([]string{"--pcrs", "99"}); err != nil {
		t.Fatal(err)
	}
	if err := k.providers.check(); !isUsage(err) {
		t.Errorf("PCR 99: %v", err)
	}

	var enroll keyFlags
	f = pflag.NewFlagSet("", pflag.ContinueOnError)
	enroll.register(f, env)
	enroll.providers.register(f, env, keys.ForEnroll)
	if err := f.Parse([]string{"--pin"}); err != nil {
		t.Fatal(err)
	}
	if _, made = enroll.providers.values(); made["pin"] != ask {
		t.Errorf("--pin: %v", made)
	}
	if err := enroll.providers.foreign("versatile"); !isUsage(err) {
		t.Errorf("a versatile slot with a PIN: %v", err)
	}
	if err := enroll.providers.foreign("tpm"); err != nil {
		t.Error(err)
	}
}
