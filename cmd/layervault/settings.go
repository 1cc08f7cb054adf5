package main

import (
	"log/slog"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"layervault/advice"
	"layervault/crypt"
	"layervault/keys"
	"layervault/keys/flags"
	"layervault/keys/unlock"
)

// settings is what a person chooses for the plugin: config.json has one
// environment variable for each, serve a flag too.
type settings struct {
	key      string
	recovery string // file with the recovery key, "-" for standard input
	anchor   string
	size     string
	cipher   string
	sector   string
	verity   string
	loglevel string
	upgrade  string
	seal     string

	providers flags.Set

	// Filled by check.
	noAnchor    bool
	sizeBytes   int64
	sectorBytes int
	level       slog.Level
	noUpgrade   bool
	sealOlder   bool
	sealWritten bool
}

// Defaults, the same in config.json. There is none for the key: an encrypted
// store whose key was not chosen would protect nothing.
const (
	defaultSize     = "64G"
	defaultLogLevel = "info"
)

// The values of the setting upgrade.
const (
	upgradeAuto   = "auto"
	upgradeLayers = "layers"
	upgradeOff    = "off"
)

// The values of the setting seal-committed.
const (
	sealOn  = "on"
	sealOff = "off"
)

// settingsOf reads the settings from the environment. A verb adds the flags of those that it
// reads: opening, making, and so on.
func settingsOf(env func(string) string) settings {
	return settings{
		key:      env("key"),
		anchor:   envOr(env, "anchor", anchorTPM),
		size:     envOr(env, "size", defaultSize),
		cipher:   env("cipher"),
		sector:   envOr(env, "sector", "4096"),
		verity:   envOr(env, "verity", string(crypt.VerityPrefer)),
		upgrade:  envOr(env, "upgrade", upgradeAuto),
		seal:     envOr(env, "seal-committed", sealOff),
		loglevel: envOr(env, "loglevel", defaultLogLevel),
	}
}

// opening adds the flags that say how the vault opens; those that say how it is made count by
// the environment alone.
func (s *settings) opening(f *pflag.FlagSet, env func(string) string) {
	s.keys(f, env, keys.ForSettings|keys.ForAll)
}

// making adds the flags of verbs that open the vault, or make it.
func (s *settings) making(f *pflag.FlagSet, env func(string) string) {
	s.keys(f, env, keys.ForSettings|keys.ForMaking)
}

func (s *settings) keys(f *pflag.FlagSet, env func(string) string, use keys.Use) {
	f.StringVar(&s.key, "key", s.key, "key provider of the vault: "+unlock.Names("", "or")+" (env key)")
	s.providers.Register(f, env, use)
	registerAnchor(f, &s.anchor)
}

// images adds the flags that say how new images are encrypted.
func (s *settings) images(f *pflag.FlagSet) {
	f.StringVar(&s.cipher, "cipher", s.cipher, "cipher of new images, as dm-crypt names it; empty for aes-xts-plain64 (env cipher)")
	f.StringVar(&s.sector, "sector", s.sector, "encryption sector of new images: 512 or 4096 (env sector)")
}

// sealed adds the flag for sealed layers.
func (s *settings) sealed(f *pflag.FlagSet) {
	f.StringVar(&s.verity, "verity", s.verity, "hash trees of sealed layers: prefer, or require to refuse layers without one (env verity)")
}

// serving adds the flags of a running plugin.
func (s *settings) serving(f *pflag.FlagSet) {
	f.StringVar(&s.size, "size", s.size, "size of a container's layer (env size)")
	f.StringVar(&s.upgrade, "upgrade", s.upgrade, "upgrade a vault of format 1 to format 2 at the start: auto or off; layers: also seal older layers anew, behind requests (env upgrade)")
	f.StringVar(&s.seal, "seal-committed", s.seal, "seal the layers that builds and commits wrote, behind requests: on or off (env seal-committed)")
	f.StringVar(&s.loglevel, "loglevel", s.loglevel, "debug, info, warn or error (env loglevel)")
}

// rescuing adds the flag for a person with the recovery key, on a machine whose slots do not
// open.
func (s *settings) rescuing(f *pflag.FlagSet) {
	f.StringVar(&s.recovery, "recovery-key-file", "", "unlock with the recovery key or passphrase in this file, - for standard input")
}

// registerAnchor adds the flag that says what remembers the key ring's writes.
func registerAnchor(f *pflag.FlagSet, anchor *string) {
	f.StringVar(anchor, "anchor", *anchor, "where the newest write of the key ring is recorded, to detect an older ring: tpm (if there is one) or none (env anchor)")
}

// check reads the settings that are numbers and words. It accepts a missing key: the plugin
// must start without one, to say so to dockerd.
func (s *settings) check() error {
	if err := s.checkKey(); err != nil {
		return err
	}
	var err error
	if s.sizeBytes, err = units.RAMInBytes(s.size); err != nil || s.sizeBytes <= 0 {
		return usagef("setting size=%q: must be a number with a unit, such as 64G", s.size)
	}
	switch s.sectorBytes, err = strconv.Atoi(s.sector); {
	case err != nil, s.sectorBytes != 512 && s.sectorBytes != 4096:
		return usagef("setting sector=%q: must be 512 or 4096", s.sector)
	}
	if v := crypt.Verity(s.verity); v != crypt.VerityPrefer && v != crypt.VerityRequire {
		return usagef("setting verity=%q: must be %s or %s", s.verity, crypt.VerityPrefer, crypt.VerityRequire)
	}
	switch s.upgrade {
	case upgradeAuto, upgradeLayers, upgradeOff:
	default:
		return usagef("setting upgrade=%q: must be %s, %s or %s", s.upgrade, upgradeAuto, upgradeLayers, upgradeOff)
	}
	s.noUpgrade, s.sealOlder = s.upgrade == upgradeOff, s.upgrade == upgradeLayers
	if s.seal != sealOn && s.seal != sealOff {
		return usagef("setting seal-committed=%q: must be %s or %s", s.seal, sealOn, sealOff)
	}
	s.sealWritten = s.seal == sealOn
	if err := s.level.UnmarshalText([]byte(s.loglevel)); err != nil {
		return usagef("setting loglevel=%q: must be debug, info, warn or error", s.loglevel)
	}
	return nil
}

// checkKey is check for the settings that say how the vault opens.
func (s *settings) checkKey() (err error) {
	if err := s.providers.Check(); err != nil {
		return &advice.UsageError{Err: err}
	}
	s.noAnchor, err = noAnchor(s.anchor)
	return err
}

func (s *settings) crypt() crypt.Params {
	return crypt.Params{Cipher: s.cipher, SectorSize: s.sectorBytes}
}
