package doctor

import (
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"layervault/crypt"
)

func TestJudgeDataRoot(t *testing.T) {
	for _, tc := range []struct {
		name      string // of the dm device
		encrypted bool
		want      Verdict
		detail    string
	}{
		{crypt.DeviceName("6f2a1f0e-6c0f-4f4e-9b57-0d6a7a7a9c11"), true, Good, "on a volume of layervault"},
		{"luks-home", true, Good, "not layervault's"},
		{"vg-root", false, Warning, "is not on a layervault volume (ext4 on /dev/x)"},
		{"", false, Warning, "changes there what containers"},
	} {
		f := judgeDataRoot("/var/lib/docker", &mountinfo.Info{FSType: "ext4", Source: "/dev/x", Mountpoint: "/var/lib/docker"}, tc.name, tc.encrypted)
		if f.Verdict != tc.want || !strings.Contains(f.Detail, tc.detail) || (f.Fix == "") != (tc.want == Good) {
			t.Errorf("%q: %+v", tc.name, f)
		}
	}
	// No engine, and a data-root that is on the disk of this machine.
	if f := checkDataRoot(t.Context(), "/nonexistent"); f.Verdict != Warning || f.Fix == "" {
		t.Errorf("%+v", f)
	}
}

func TestJudgeRoot(t *testing.T) {
	for _, tc := range []struct {
		fs, uuid, cmdline string
		want              Verdict
		detail            string
	}{
		{"ext4", "", "root=/dev/sda1 ro quiet", Warning, "nothing vouches for / (ext4 on /dev/x"},
		{"ext4", "CRYPT-LUKS2-0-root", "", Warning, "nothing vouches"},
		{"erofs", "CRYPT-VERITY-0-root", "", Good, "dm-verity"},
		{"rootfs", "", "", Good, "in memory"},
		{"ext4", "", "ima_policy=tcb", Warning, "nothing vouches"},
		{"ext4", "", "ima_policy=tcb|appraise_tcb", Good, "IMA"},
		{"ext4", "", "ima_policy=secure_boot ima_appraise=log", Warning, "nothing vouches"},
		{"ext4", "", "ima_policy=secure_boot ima_appraise=fix", Warning, "nothing vouches"},
	} {
		f := judgeRoot(&mountinfo.Info{FSType: tc.fs, Source: "/dev/x"}, tc.uuid, tc.cmdline)
		if f.Verdict != tc.want || !strings.Contains(f.Detail, tc.detail) || (f.Fix == "") != (tc.want == Good) {
			t.Errorf("%+v: %+v", tc, f)
		}
	}
}
