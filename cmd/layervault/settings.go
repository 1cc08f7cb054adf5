package main

import (
	"log/slog"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"layervault/crypt"
	"layervault/keys"
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
	loglevel string
	upgrade  string

	providers providerFlags

	// Filled by check.
	noAnchor    bool
	sizeBytes   int64
	sectorBytes int
	level       slog.Level
	noUpgrade   bool
}

// Defaults, the same in config.json. There is none for the key: an encrypted
// store that nobody chose a key for would protect nothing.
const (
	defaultSize     = "64G"
	defaultLogLevel = "info"
)

// The values of the setting upgrade.
const (
	upgradeAuto = "auto"
	upgradeOff  = "off"
)

func (s *settings) register(f *pflag.FlagSet, env func(string) string) {
	s.registerKey(f, env)
	f.StringVar(&s.size, "size", envOr(env, "size", defaultSize), "size of a container's layer (env size)")
	f.StringVar(&s.cipher, "cipher", envOr(env, "cipher", ""), "cipher of new layers, as dm-crypt names it; empty for aes-xts-plain64 (env cipher)")
	f.StringVar(&s.sector, "sector", envOr(env, "sector", "4096"), "encryption sector of new layers: 512 or 4096 (env sector)")
	f.StringVar(&s.upgrade, "upgrade", envOr(env, "upgrade", upgradeAuto), "a vault of format 1 is brought to format 2 at the start: auto, or off (env upgrade)")
	f.StringVar(&s.loglevel, "loglevel", envOr(env, "loglevel", defaultLogLevel), "debug, info, warn or error (env loglevel)")
}

// registerKey adds the flags that say how the vault opens.
func (s *settings) registerKey(f *pflag.FlagSet, env func(string) string) {
	f.StringVar(&s.key, "key", envOr(env, "key", ""), "key provider of the vault: "+unlock.Names("", "or")+" (env key)")
	s.providers.register(f, env, keys.ForSettings)
	registerAnchor(f, &s.anchor, env)
}

// registerRecovery adds the way in for a person who has the recovery key at hand, on a
// machine whose slots do not open: for verbs that read.
func (s *settings) registerRecovery(f *pflag.FlagSet) {
	f.StringVar(&s.recovery, "recovery-key-file", "", "unlock with the recovery key or passphrase in this file, - for standard input")
}

// check reads the settings that are numbers and words. A missing key is not its
// business: the plugin must start without one, to say so to dockerd.
func (s *settings) check() error {
	if err := s.checkKey(); err != nil {
		return err
	}
	var err error
	if s.sizeBytes, err = units.RAMInBytes(s.size); err != nil || s.sizeBytes <= 0 {
		return usagef("setting size=%q: write a number with a unit, such as 64G", s.size)
	}
	switch s.sectorBytes, err = strconv.Atoi(s.sector); {
	case err != nil, s.sectorBytes != 512 && s.sectorBytes != 4096:
		return usagef("setting sector=%q: it is 512 or 4096", s.sector)
	}
	if s.upgrade != upgradeAuto && s.upgrade != upgradeOff {
		return usagef("setting upgrade=%q: it is %s or %s", s.upgrade, upgradeAuto, upgradeOff)
	}
	s.noUpgrade = s.upgrade == upgradeOff
	if err := s.level.UnmarshalText([]byte(s.loglevel)); err != nil {
		return usagef("setting loglevel=%q: it is debug, info, warn or error", s.loglevel)
	}
	return nil
}

// checkKey is check for what registerKey adds.
func (s *settings) checkKey() (err error) {
	if err := s.providers.check(); err != nil {
		return err
	}
	s.noAnchor, err = noAnchor(s.anchor)
	return err
}

func (s *settings) crypt() crypt.CryptParams {
	return crypt.CryptParams{Cipher: s.cipher, SectorSize: s.sectorBytes}
}
