//go:build guest

package e2e

import "testing"

// TestZZNothingIsLeft comes last (tests run in the order of their files): when
// every container and image is removed, nothing of ours is left. prune does the
// removing, so it is tested too.
func TestZZNothingIsLeft(t *testing.T) {
	sh(t, `docker run --name prune-me --network none busybox true
		docker tag busybox prune:1
		docker container prune -f | grep 'Deleted Containers' >/dev/null # not -q, which would end the pipe under docker
		docker ps -aq | xargs -r docker rm -f
		docker builder prune -af
		docker system prune -af --volumes`)
	if got := docker(t, "images", "-aq") + docker(t, "ps", "-aq"); got != "" {
		t.Errorf("after prune -a there is still %s", got)
	}
	if !encrypted() {
		return
	}
	noLeaks(t, "--empty")
	// and the engine is as good as new
	sh(t, `docker import "$1" busybox:latest >/dev/null; docker run --rm --network none busybox true`, busyboxTar)
}
