package dm

import (
	"errors"
	"strings"
	"testing"
)

// A word that comes from a header or a file cannot become several in the kernel's table.
func TestTableWords(t *testing.T) {
	good := CryptTable{Cipher: "aes-xts-plain64", KeySize: 64, Length: 8, SectorSize: 512}
	ref := KeyRef{keyLogon, "layervault:6f2a1f0e-6c0f"}
	for _, cipher := range []string{
		"cipher_null-ecb - 0 7:1 2048 0", "aes-xts-plain64\t0", "aes\n", "aes\\ x", "aes/xts", "aes;x", "aes\x00", "aes-xts-pl\u00e4in", "",
	} {
		table := good
		table.Cipher = cipher
		if line, err := table.target(ref); !errors.Is(err, ErrBadName) {
			t.Errorf("cipher %q makes %q, %v", cipher, line.Params, err)
		}
	}
	for _, description := range []string{"", "a b", "a\tb", "a\nb", `a\`, `a"b`, "a\x00b", "\u00e4"} {
		if line, err := good.target(KeyRef{keyLogon, description}); !errors.Is(err, ErrBadName) {
			t.Errorf("description %q makes %q, %v", description, line.Params, err)
		}
	}
	for _, cipher := range []string{"capi:tk(cbc(aes))-plain", "capi:cbc(aes)-essiv:sha256", "xchacha12,aes-adiantum-plain64", "aes-cbc-essiv:sha256"} {
		table := good
		table.Cipher = cipher
		for _, description := range []string{"layervault:u", "logkey:a_disk.key@2"} {
			line, err := table.target(KeyRef{keyLogon, description})
			if err != nil || len(strings.Fields(line.Params)) != 7 {
				t.Errorf("%s, %s: %q, %v", cipher, description, line.Params, err)
			}
		}
	}
}
