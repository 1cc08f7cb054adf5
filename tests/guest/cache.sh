# shellcheck shell=bash
# The guest's cache: sourced by the scripts beside it. What is slow to make (a Debian tree, a disk with the plugin installed)
# is kept outside the checkout under the hash of all that went into it, so two checkouts share what is equal and never what is not.

# shellcheck disable=SC2034 # used by who sources this
guest_cache=${LAYERVAULT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/layervault}/guest

# How many entries of one kind are kept: enough for two checkouts with both engines, few enough for a laptop (an entry takes about 1 GB).
keep_entries=4

say() { echo "guest: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# content_hash FILE... : one short name for the content of these files.
content_hash() { cat -- "$@" | sha256sum | cut -c1-16; }

# cached KIND HASH COMMAND... : prints the folder $guest_cache/KIND-HASH. If it is not there, COMMAND is called with the name of an empty
# folder to fill, which is renamed when complete: a builder that is killed leaves nothing that looks like a result. The lock
# makes a second builder wait for the first and then use what it made.
cached() {
  local kind=$1 hash=$2 entry tmp
  shift 2
  entry=$guest_cache/$kind-$hash
  mkdir -p "$guest_cache"
  if [ ! -d "$entry" ]; then
    (
      flock 9
      [ ! -d "$entry" ] || exit 0
      # Holding the lock, no other builder of this entry is alive: what it left half done can go.
      rm -rf "$entry".tmp-*
      tmp=$entry.tmp-$$
      mkdir "$tmp"
      "$@" "$tmp" >&2 9>&- || {
        rm -rf "$tmp"
        exit 1
      }
      mv "$tmp" "$entry"
      prune "$kind" "$entry"
    ) 9>"$entry.lock" || return 1
  fi
  touch "$entry"
  echo "$entry"
}

# prune KIND KEEP : drops the oldest entries of this kind, but never one that a running guest holds or that was used within
# the hour, since another process may just have been told its name.
prune() {
  local kind=$1 entry n=0
  while read -r entry; do
    n=$((n + 1))
    if [ "$n" -le "$keep_entries" ] || [ "$entry" = "$2" ]; then continue; fi
    if [ -n "$(find "$entry" -maxdepth 0 -mmin -60)" ]; then continue; fi
    # A guest holds a shared lock on the entry's folder while it runs.
    flock --exclusive --nonblock "$entry" rm -rf "$entry" "$entry.lock" || true
  done < <(find "$guest_cache" -maxdepth 1 -type d -name "$kind-*" ! -name '*.tmp-*' -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2-)
}
