//go:build guest

package e2e

import (
	"strings"
	"testing"
)

// A PCR changes, and the engine comes back without anybody: the new value was signed before.
// At a value that nobody signed it stays shut, and says so.
func TestKeysSignedPolicy(t *testing.T) {
	if !encrypted() {
		return
	}
	testRing(t)
	dir := t.TempDir()
	sh(t, `openssl ecparam -genkey -name prime256v1 -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1/key.pem"; chmod 600 "$1/key.pem"
		openssl pkey -in "$1/key.pem" -pubout -out "$1/key.pub"
		layervault key enroll tpm --label signed --signed-by "$1/key.pub"`, dir)
	keepSlots(t, "signed")

	// what PCR 9 will be after the update, computed as where images are built
	event := sh(t, `head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'`)
	next := sh(t, `now=$(tpm2_pcrread sha256:9 | sed -n 's/.*0x//p'); printf '%s%s' "$now" "$1" | python3 -c 'import sys,hashlib;print(hashlib.sha256(bytes.fromhex(sys.stdin.read())).hexdigest())'`, event)
	sh(t, `layervault key sign-policy --key "$1/key.pem" --pcr "9=$2" --out "$1/next.json"; layervault key load-policy "$1/next.json"`, dir, next)

	stop(t)
	sh(t, `tpm2_pcrextend "9:sha256=$1"`, event)
	if got := strings.ToLower(sh(t, `tpm2_pcrread sha256:9 | sed -n 's/.*0x//p'`)); got != next {
		t.Fatalf("PCR 9 is %s, the test meant %s", got, next)
	}
	start(t)
	works(t)
	if got := slotState(t, "signed"); got != "opens" {
		t.Errorf("the signed slot %s", got)
	}

	refused(t, func() {
		sh(t, `tpm2_pcrextend "9:sha256=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')"`)
	}, func() {
		if got := slotState(t, "signed"); got != "fails" {
			t.Errorf("at a value that nobody signed the slot %s", got)
		}
		// the signer's word is all it takes, now as before
		sh(t, `now=$(tpm2_pcrread sha256:9 | sed -n 's/.*0x//p'); layervault key sign-policy --key "$1/key.pem" --pcr "9=$now" | layervault key load-policy -`, dir)
	}, "no signed policy", "PCR 9")
}
