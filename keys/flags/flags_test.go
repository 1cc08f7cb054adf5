package flags_test

import (
	"testing"

	"github.com/spf13/pflag"

	"layervault/keys"
	"layervault/keys/flags"
)

// What flags and the environment say of opening a tier does not describe a new slot, but in
// the plugin, which makes the vault from its settings.
func TestSettingsOfNewSlots(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"pcrs": "7", "pin-file": "/pin"}[name]
	}
	var plugin flags.Set
	plugin.Register(pflag.NewFlagSet("", pflag.ContinueOnError), env, keys.ForSettings|keys.ForMaking)
	set, made := plugin.Values()
	if set["pin-file"] != "/pin" || made["pin"] != "/pin" || set["pcrs"] != "7" || made["pcrs"] != "7" || set["tpm"] != "/dev/tpmrm0" {
		t.Errorf("plugin: %v, new %v", set, made)
	}

	var reseal flags.Set
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	reseal.Register(f, env, keys.ForKeys|keys.ForAll|keys.ForPerson|keys.ForReseal)
	if set, made = reseal.Values(); set["pin-file"] != "/pin" || made["pin"] != "" || made["pcrs"] != "" {
		t.Errorf("key reseal: %v, new %v", set, made)
	}
	if err := f.Parse([]string{"--pcrs", "99"}); err != nil {
		t.Fatal(err)
	}
	if err := reseal.Check(); err == nil {
		t.Error("PCR 99 was accepted")
	}

	var enroll flags.Set
	f = pflag.NewFlagSet("", pflag.ContinueOnError)
	enroll.Register(f, env, keys.ForKeys|keys.ForAll|keys.ForEnroll)
	if err := f.Parse([]string{"--pin"}); err != nil {
		t.Fatal(err)
	}
	if _, made = enroll.Values(); made["pin"] != flags.Ask {
		t.Errorf("--pin: %v", made)
	}
	if err := enroll.Foreign("versatile"); err == nil {
		t.Error("a versatile slot with a PIN was accepted")
	}
	if err := enroll.Foreign("tpm"); err != nil {
		t.Error(err)
	}
}
