#!/usr/bin/env bash
# install.sh [--dry-run] --key tpm|versatile [--persist DIR] : makes this host's Docker keep its layers with layervault.
#
#  1. checks the engine (see docs/install.md: 28 and later have no graph driver plugins)
#  2. creates, sets and enables the managed plugin from dist/plugin
#  3. /etc/docker/daemon.json: "experimental": true and "storage-driver": "layervault"; every other key stays as it is,
#     and the old file is kept as daemon.json.before-layervault
#  4. a systemd drop-in: DOCKER_TMPDIR in memory, because dockerd unpacks pulls and loads there in the clear
#  5. restarts docker
#
# Images and containers of the old storage driver are not removed; they are there again when layervault is uninstalled.
# Paths are relative to $DESTDIR, which is for tests.
set -euo pipefail
repo=$(realpath "$(dirname "$0")/..")
dest=${DESTDIR:-}
daemon=$dest/etc/docker/daemon.json
backup=$daemon.before-layervault
dropin=$dest/etc/systemd/system/docker.service.d/layervault.conf
dry='' key='' persist=/persist

say() { echo "install: $*"; }
die() {
  echo "install: $1" >&2
  exit "${2:-1}"
}
# run CMD... : runs it, or only says so.
run() {
  if [ -n "$dry" ]; then echo "would run: $*"; else "$@"; fi
}
# put FILE < CONTENT : writes a file atomically, or only shows it.
put() {
  if [ -n "$dry" ]; then
    echo "would write $1:"
    sed 's/^/    /'
    return
  fi
  mkdir -p "$(dirname "$1")"
  cat >"$1.tmp-$$"
  chmod 0644 "$1.tmp-$$"
  mv "$1.tmp-$$" "$1"
}

while [ $# -gt 0 ]; do
  case $1 in
  --dry-run) dry=1 ;;
  --key) key=${2:-} && shift ;;
  --persist) persist=${2:-} && shift ;;
  *) die "unknown argument $1; usage: install.sh [--dry-run] --key tpm|versatile [--persist DIR]" 2 ;;
  esac
  shift
done
case $key in
tpm | versatile) ;;
'') die "choose the vault's key: --key tpm (sealed by this host's TPM), or --key versatile (a key file, which protects nothing on a stolen disk); make install KEY=tpm" 2 ;;
*) die "unknown key provider $key: tpm or versatile" 2 ;;
esac
case $persist in /*) ;; *) die "--persist $persist is no absolute path" 2 ;; esac
command -v python3 >/dev/null || die "python3 is needed to edit daemon.json: apt-get install python3" 8

# --- 1. the engine
version=$(docker version --format '{{.Server.Version}}' 2>/dev/null) || die "no Docker engine answers: apt-get install docker.io, systemctl start docker" 8
major=${version%%.*}
case $major in '' | *[!0-9]*) die "engine version '$version' is not understood" 8 ;; esac
if [ "$major" -ge 28 ]; then
  die "Docker $version has no graph driver plugins: they were removed in 28.0, and dockerd would not start with one.
  Stay on Docker 27 or older (apt-mark hold docker.io). Volumes work with Docker 28: docs/install.md." 8
fi
[ "$major" -ge 20 ] || die "Docker $version is older than 20.10, which nobody tested" 8
gate=
if [ "$major" -eq 27 ]; then
  gate=1
  say "Docker 27 takes graph driver plugins only with DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS set: the drop-in will set it"
fi
if [ -f "$daemon" ] && python3 -c 'import json,sys; sys.exit("userns-remap" not in json.load(open(sys.argv[1])))' "$daemon" 2>/dev/null; then
  say "userns-remap is on: dockerd then keeps everything, plugins too, in a data-root of its own for the remapped user; the plugin is created there"
fi

# --- 3. daemon.json is worked out before anything is changed: one that cannot be read stops here
new_daemon=$(
  python3 - "$daemon" <<'PY'
import json, os, sys
path, conf = sys.argv[1], {}
if os.path.exists(path) and os.path.getsize(path):
    try:
        with open(path) as f:
            conf = json.load(f)
    except ValueError as e:
        sys.exit(f"install: {path} is not JSON ({e}): mend it first")
    if not isinstance(conf, dict):
        sys.exit(f"install: {path} is not a JSON object: mend it first")
other = conf.get("storage-driver")
if other not in (None, "layervault"):
    print(f"install: the storage driver changes from {other}; its images stay on disk", file=sys.stderr)
if other != "layervault" and conf.pop("storage-opts", None):
    print(f"install: storage-opts were for {other or 'another driver'} and are left out", file=sys.stderr)
conf["experimental"] = True
conf["storage-driver"] = "layervault"
print(json.dumps(conf, indent=2))
PY
) || exit 1

# --- 2. the plugin
[ -d "$repo/dist/plugin/rootfs" ] || die "dist/plugin is not there: make plugin"
[ -d "$dest$persist" ] || run install -d -m 0700 "$dest$persist"
if docker plugin inspect layervault >/dev/null 2>&1; then
  say "the plugin is installed already; make uninstall first to replace it. Only its settings and docker's are looked at."
else
  run docker plugin create layervault "$repo/dist/plugin"
  run docker plugin set layervault "key=$key" "persist.source=$persist"
fi
if [ "$(docker plugin inspect --format '{{.Enabled}}' layervault 2>/dev/null)" != true ]; then
  # Without --timeout 0 docker gives up on a request after 30 s, and a large layer takes longer.
  run docker plugin enable --timeout 0 layervault
fi

# --- 3. and 4.
if [ -f "$daemon" ] && [ ! -e "$backup" ]; then run cp -p "$daemon" "$backup"; fi
put "$daemon" <<<"$new_daemon"
{
  echo "# From layervault's install.sh. dockerd unpacks what it pulls and loads in DOCKER_TMPDIR, in the clear: in memory it leaves no trace."
  echo "[Service]"
  echo "RuntimeDirectory=docker-tmp"
  echo "RuntimeDirectoryMode=0700"
  echo "Environment=DOCKER_TMPDIR=/run/docker-tmp"
  [ -z "$gate" ] || echo "Environment=DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS=1"
} | put "$dropin"

# --- 5.
run systemctl daemon-reload
run systemctl restart docker
if [ -n "$dry" ]; then
  say "nothing was changed"
  exit 0
fi
driver=$(docker info --format '{{.Driver}}' 2>/dev/null) || driver=
case $driver in
layervault | layervault:*) ;;
*) die "docker did not come up with layervault: see 'journalctl -u docker', and 'make uninstall' for the way back" ;;
esac
say "done. Now make a recovery key, and keep it away from this host: layervault key enroll recovery"
say "/run is memory: a pull needs room there for its compressed layers (mount -o remount,size=... /run)"
