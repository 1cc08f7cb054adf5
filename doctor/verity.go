package doctor

import (
	"errors"

	"layervault/crypt"
)

// checkVerity looks for what verifies sealed layers, under the setting verity.
func (h Host) checkVerity() Finding {
	has, err := crypt.HasVerity()
	return judgeVerity(has, err, h.Sector, h.Verity)
}

// judgeVerity says what follows for sealed layers. Only verity=require makes a lack of hash trees
// essential.
func judgeVerity(has bool, err error, sector int, verity crypt.Verity) Finding {
	say, follows := warn, "new sealed layers get no hash tree, so that changed blocks are not noticed"
	if verity == crypt.VerityRequire {
		say, follows = lack, "verity=require refuses every layer"
	}
	no := crypt.KernelError{}
	errors.As(crypt.ErrNoVerity, &no)
	fix := "modprobe " + no.Module + " && echo " + no.Module + " >> /etc/modules (kernel option " + no.Option + ")"
	switch {
	case err != nil:
		return say(fix, "device-mapper cannot be used: %v", err)
	case !has:
		return say(fix, "no verity target: %s; layers that have a hash tree do not open", follows)
	case sector != 0 && sector != 4096 && verity == crypt.VerityRequire:
		return lack("docker plugin set layervault sector=4096 (or verity=prefer)", "sector=%d, and verity=require: no layer can be imported", sector)
	case sector != 0 && sector != 4096:
		return warn("docker plugin set layervault sector=4096", "sector=%d: %s", sector, follows)
	}
	return ok("verity target, new sealed layers get a hash tree")
}

// checkEROFS looks for the file system of sealed layers.
func checkEROFS() Finding { return judgeEROFS(crypt.HasEROFS()) }

func judgeEROFS(has bool) Finding {
	if !has {
		no := crypt.KernelError{}
		errors.As(crypt.ErrNoEROFS, &no)
		return warn("modprobe "+no.Module+" && echo "+no.Module+" >> /etc/modules (kernel option "+no.Option+")",
			"no %s: new sealed layers are ext4 and take more space; layers that are EROFS do not open", no.Feature)
	}
	return ok("new sealed layers are EROFS")
}
