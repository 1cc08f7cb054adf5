#!/usr/bin/env bash
# uninstall.sh [--dry-run] : takes layervault off this host's Docker: the old daemon.json is put back, or, if it has changed
# since, only layervault's keys are taken out of it. /persist with its encrypted layers stays; remove it by hand.
set -euo pipefail
dest=${DESTDIR:-}
daemon=$dest/etc/docker/daemon.json
backup=$daemon.before-layervault
dropin=$dest/etc/systemd/system/docker.service.d/layervault.conf
dry=
[ "${1:-}" != --dry-run ] || dry=1
say() { echo "uninstall: $*"; }
run() {
  if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi
}

if [ -f "$daemon" ]; then
  old=$(
    python3 - "$daemon" "$backup" <<'PY'
import json, os, sys
with open(sys.argv[1]) as f:
    conf = json.load(f)
before = {}
if os.path.exists(sys.argv[2]) and os.path.getsize(sys.argv[2]):
    with open(sys.argv[2]) as f:
        before = json.load(f)
if conf.get("storage-driver") == "layervault":
    # storage-opts belong to the driver, so they go and come with it.
    for key in ("storage-driver", "storage-opts"):
        conf.pop(key, None)
        if key in before:
            conf[key] = before[key]
    conf.pop("experimental", None)
    if "experimental" in before:
        conf["experimental"] = before["experimental"]
print(json.dumps(conf, indent=2))
PY
  )
  if [ -n "$dry" ]; then
    echo "would write $daemon:"
    printf '    %s\n' "${old//$'\n'/$'\n'    }"
  else
    echo "$old" >"$daemon.tmp-$$" && mv "$daemon.tmp-$$" "$daemon"
  fi
fi
run rm -f "$backup" "$dropin"
run systemctl daemon-reload
# Docker must run on its old driver before it lets go of the plugin, which then still counts two references of its own.
run systemctl restart docker
if docker plugin inspect layervault >/dev/null 2>&1; then
  run docker plugin disable --force layervault
  run docker plugin rm --force layervault
fi
say "done. The encrypted layers and their key ring are still in /persist; remove them when nothing in them is wanted any more"
