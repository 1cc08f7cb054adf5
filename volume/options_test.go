package volume

import (
	"errors"
	"strings"
	"testing"

	"layervault/crypt"
	"layervault/persist"
)

func TestParseOptions(t *testing.T) {
	vault := func(o Options) Request {
		o.Tier, o.Persistence = persist.Vault, Permanent
		return Request{Options: o, Generation: -1}
	}
	for _, tt := range []struct {
		text string // options, with blanks between them
		want Request
		err  error
		says string
	}{
		{text: "", want: vault(Options{})},
		{text: "size=20G", want: vault(Options{Size: 20 << 30})},
		{text: "size=17000001", want: vault(Options{Size: 16998400})},
		{text: "cipher=aes-cbc-essiv:sha256 sector=512 mountopts=noatime,nodev", want: vault(Options{Cipher: "aes-cbc-essiv:sha256", Sector: 512, MountOpts: "noatime,nodev"})},
		{text: "clear=false", want: vault(Options{})},
		{text: "tier=unsealed-vault", want: Request{Options: Options{Tier: persist.Unsealed, Persistence: Permanent}, Generation: -1}},
		{text: "clear=true", want: Request{Options: Options{Tier: persist.Clear, Persistence: Permanent}, Generation: -1}},
		{text: "clear=true tier=clear", want: Request{Options: Options{Tier: persist.Clear, Persistence: Permanent}, Generation: -1}},
		{text: "persistence=permanent@secrets/", want: Request{Options: Options{Disk: "secrets", Persistence: Permanent}, Generation: -1}},
		{text: "persistence=boot@x@secrets disk=secrets platform=web", want: Request{Options: Options{Disk: "secrets", Persistence: Boot, Platform: "web"}, Generation: -1}},
		{text: "persistence=revision revision=r1", want: Request{Options: Options{Tier: persist.Vault, Persistence: Revision, Revision: "r1"}, Generation: -1}},
		{
			text: "uuid=0A1B2C3D-0000-4000-8000-000000000001 generation=9223372036854775807",
			want: Request{Options: Options{Tier: persist.Vault, Persistence: Permanent}, UUID: "0a1b2c3d-0000-4000-8000-000000000001", Generation: 1<<63 - 1},
		},

		{text: "colour=blue", err: ErrUnknownOption, says: "cipher, clear, disk, generation, inodes, mountopts, persistence, platform, revision, sector, size, tier, uuid"},
		{text: "Size=20G", err: ErrUnknownOption},
		{text: "size=plenty", err: ErrBadOption, says: "20G"},
		{text: "size=0", err: ErrBadOption},
		{text: "size=-5G", err: ErrBadOption},
		{text: "size=1M", err: ErrBadOption, says: "16MiB"},
		{text: "size=17T", err: ErrBadOption, says: "16TiB"},
		{text: "size=99999999999P", err: ErrBadOption},
		{text: "tier=vaults", err: ErrBadOption, says: "unsealed-vault"},
		{text: "clear=perhaps", err: ErrBadOption},
		{text: "clear=true tier=vault", err: ErrBadOption, says: "conflicts"},
		{text: "clear=false tier=clear", err: ErrBadOption, says: "clear"},
		{text: "clear=true size=20G", err: ErrBadOption, says: "size"},
		{text: "clear=true cipher=aes-xts-plain64", err: ErrBadOption, says: "cipher"},
		{text: "uuid=nothing", err: ErrBadOption},
		{text: "generation=-1", err: ErrBadOption},
		{text: "generation=9223372036854775808", err: ErrBadOption},
		{text: "disk=a/b", err: ErrBadName},
		{text: "disk=..", err: ErrBadName},
		{text: "disk=a persistence=permanent@b", err: ErrBadOption, says: "conflicts"},
		{text: "disk=a tier=vault", err: ErrBadOption, says: "set by disk a"},
		{text: "disk=a size=20G", err: ErrBadOption, says: "size"},
		{text: "disk=a mountopts=noatime", err: ErrBadOption, says: "mountopts"},
		{text: "persistence=forever", err: ErrBadOption, says: "revision"},
		{text: "persistence=permanent@", err: ErrBadOption},
		{text: "persistence=", err: ErrBadOption},
		{text: "platform=web", err: ErrBadOption, says: "disk="},
		{text: "disk=a platform=../x", err: ErrBadName},
		{text: "revision=r1", err: ErrBadOption, says: "persistence=revision"},
		{text: "persistence=revision revision=a/b", err: ErrBadName},
		{text: "cipher=rot13", err: ErrBadOption, says: "aes-xts-plain64"},
		{text: "sector=513", err: ErrBadOption},
		{text: "size=64M inodes=65536", want: vault(Options{Size: 64 << 20, Inodes: 65536})},
		{text: "inodes=5000000", want: vault(Options{Inodes: 5000000})},
		{text: "size=64M inodes=65537", err: ErrBadOption, says: "1024 to 65536"},
		{text: "inodes=1023", err: ErrBadOption, says: "from 1024"},
		{text: "inodes=2147483649", err: ErrBadOption},
		{text: "inodes=many", err: ErrBadOption},
		{text: "clear=true inodes=5000", err: ErrBadOption, says: "inodes"},
		{text: "disk=a inodes=5000", err: ErrBadOption, says: "inodes"},
		{text: "mountopts=ro", err: crypt.ErrBadParams},
		{text: "mountopts=usrjquota=x", err: crypt.ErrBadParams},
	} {
		opts := map[string]string{}
		for _, word := range strings.Fields(tt.text) {
			k, v, _ := strings.Cut(word, "=")
			opts[k] = v
		}
		got, err := ParseOptions(opts)
		if tt.err == nil && (err != nil || got != tt.want) {
			t.Errorf("%s: %+v, %v", tt.text, got, err)
		}
		if tt.err != nil && (!errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}

func FuzzParsePersistence(f *testing.F) {
	for _, seed := range []string{"permanent", "revision@disk", "boot@a@b/", "@", "permanent@", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kind, disk, err := ParsePersistence(text)
		if err != nil || disk != "" && ValidateName("disk", disk) != nil { // which whoever wants the disk does
			return
		}
		again := string(kind)
		if disk != "" {
			again += "@" + disk
		}
		if k, d, err := ParsePersistence(again); k != kind || d != disk || err != nil {
			t.Errorf("%q is %s, %s; that again %s, %s, %v", text, kind, disk, k, d, err)
		}
	})
}

func TestParseID(t *testing.T) {
	const u = "0a1b2c3d-0000-4000-8000-000000000001"
	for text, ok := range map[string]bool{
		u + "#0": true, u + "#12": true, u: false, u + "#": false, u + "#-1": false, u + "#+1": false, u + "#01": false, u + "#1.raw": false,
		strings.ToUpper(u) + "#0": false, "#1": false, "x#1": false, u + "#9223372036854775808": false,
	} {
		id, err := ParseID(text)
		if (err == nil) != ok || ok && id.String() != text {
			t.Errorf("%q: %v, %v", text, id, err)
		}
	}
}

func TestPlaceOnDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"data", Options{Disk: "d", Persistence: Permanent}, "perm/docker/data"},
		{"web.docker--var-x", Options{Disk: "d", Persistence: Permanent, Platform: "web"}, "perm/web/docker--var-x"},
		{"web.", Options{Disk: "d", Persistence: Permanent, Platform: "web"}, "perm/web/web."},
		{"other.x", Options{Disk: "d", Persistence: Revision, Platform: "web"}, "rev/r7/web/other.x"},
		{"x", Options{Disk: "d", Persistence: Revision, Revision: "r1"}, "rev/r1/docker/x"},
		{"x", Options{Disk: "d", Persistence: Boot, Platform: "bsp"}, "boot/bsp/x"},
	} {
		p, err := placeOf(Record{Name: tt.name, Options: tt.o}, "r7")
		if err != nil || p.dir != tt.want || (p.marker != "") != (tt.o.Persistence == Boot) {
			t.Errorf("%s: %+v, %v", tt.name, p, err)
		}
		if root := "/somewhere/" + p.dir; !onDiskRoot(Record{Name: tt.name, Options: tt.o}, root) {
			t.Errorf("%s is not recognised", root)
		}
	}
}
