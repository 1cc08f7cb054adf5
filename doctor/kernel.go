package doctor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"layervault/crypt/dm"
	"layervault/stack"
)

// The oldest kernel with all that is used: LOOP_CONFIGURE is from 5.8, dm-crypt's
// no_read_workqueue from 5.9.
const (
	kernelMajor = 5
	kernelMinor = 9
)

func checkKernel() Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return warn("", "version unknown: %v", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warn("", "version %q is not understood", release)
	}
	if major < kernelMajor || major == kernelMajor && minor < kernelMinor {
		return lack("apt-get install --only-upgrade linux-image-"+runtime.GOARCH, "%s is older than %d.%d (LOOP_CONFIGURE, no_read_workqueue)", release, kernelMajor, kernelMinor)
	}
	return ok("%s", release)
}

func checkDM() Finding {
	const fix = "modprobe dm-crypt && echo dm-crypt >> /etc/modules (kernel option CONFIG_DM_CRYPT)"
	control, err := dm.Open()
	if err != nil {
		return lack(fix, "device-mapper cannot be used: %v", err)
	}
	version, err := control.TargetVersion("crypt")
	if err = errors.Join(err, control.Close()); err != nil {
		return lack(fix, "no crypt target: %v", err)
	}
	return ok("crypt target %v", version)
}

func checkLoop() Finding {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return lack("modprobe loop && echo loop >> /etc/modules (kernel option CONFIG_BLK_DEV_LOOP)", "%v", err)
	}
	return ok("/dev/loop-control")
}

// checkInodes looks for what gives a container one device and lasting inode numbers.
func checkInodes() Finding {
	if err := stack.CheckInodes(); err != nil {
		return warn("run doctor as root; modprobe overlay; else a 64 bit kernel from 4.17 on (du -x and tar --one-file-system stop within a container)", "%v", err)
	}
	return ok("one device in each container, numbers stay when a file is copied up")
}

// checkDirectIO says in which units containers and volumes can do direct I/O: programs that
// want smaller ones get EINVAL, and nothing else.
func checkDirectIO(sector int) Finding {
	if sector == 512 {
		return ok("new layers and volumes accept units of 512 bytes")
	}
	return ok("new layers and volumes accept units of %d bytes; a database or a virtual machine's disk that wants 512 gets EINVAL: docker plugin set layervault sector=512, or a volume made with -o sector=512", sector)
}

func checkFilesystems() []Finding {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return []Finding{warn("", "%v", err)}
	}
	var out []Finding
	for _, fs := range []struct{ name, option string }{{"overlay", "CONFIG_OVERLAY_FS"}, {"ext4", "CONFIG_EXT4_FS"}} {
		switch {
		case strings.Contains(string(known), "\t"+fs.name+"\n"):
			out = append(out, ok("%s", fs.name))
		default:
			out = append(out, lack("modprobe "+fs.name+" (kernel option "+fs.option+")", "the kernel has no %s", fs.name))
		}
	}
	return out
}

// kernelCiphers are dm-crypt's names and those of the kernel's crypto API for what
// they need.
var kernelCiphers = map[string]struct{ algorithm, option string }{
	"":                               {"xts(aes)", "CONFIG_CRYPTO_XTS, CONFIG_CRYPTO_AES"},
	"aes-xts-plain64":                {"xts(aes)", "CONFIG_CRYPTO_XTS, CONFIG_CRYPTO_AES"},
	"aes-cbc-essiv:sha256":           {"cbc(aes)", "CONFIG_CRYPTO_CBC, CONFIG_CRYPTO_ESSIV"},
	"xchacha12,aes-adiantum-plain64": {"adiantum(xchacha12,aes)", "CONFIG_CRYPTO_ADIANTUM"},
}

// checkCipher asks for the algorithm through AF_ALG: /proc/crypto lists only what
// somebody has used already.
func checkCipher(cipher string) Finding {
	want, known := kernelCiphers[cipher]
	if !known {
		return lack("docker plugin set layervault cipher=aes-xts-plain64", "unknown cipher %q", cipher)
	}
	fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return warn("modprobe algif_skcipher", "%s: cannot ask the kernel: %v", want.algorithm, err)
	}
	err = unix.Bind(fd, &unix.SockaddrALG{Type: "skcipher", Name: want.algorithm})
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return lack("choose another cipher, or a kernel with "+want.option, "%s: %v", want.algorithm, err)
	}
	return ok("%s", want.algorithm)
}

// checkKeyring puts a logon key into this thread's keyring, as is done for each
// image that is opened, and takes it out again.
func checkKeyring() Finding {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", "layervault:doctor", []byte("x"), unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return lack("use a kernel with CONFIG_KEYS; in a container, allow add_key and keyctl", "logon keys cannot be made: %v", err)
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); err != nil {
		return warn("", "a key cannot be unlinked: %v", err)
	}
	return ok("logon keys")
}

func checkTools() Finding {
	var absent []string
	for _, tool := range []string{"mkfs.ext4", "e2fsck", "resize2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			absent = append(absent, tool)
		}
	}
	if len(absent) > 0 {
		return warn("apt-get install e2fsprogs", "%s not on the PATH; the managed plugin has its own", strings.Join(absent, ", "))
	}
	return ok("mkfs.ext4, e2fsck, resize2fs")
}
