# shellcheck shell=bash disable=SC2154 # what tests/guest/run has set
# Sourced by tests/guest/run: sets pin, the words that tie the machine to a processor of its own, and holds that processor until the script ends.
#
# User-Mode Linux hands over between the kernel and its processes by futex. On one processor that is a switch; across two each hand-over wakes
# an idle one, which makes the guest two to three times slower. qemu is left to the host's scheduler.
pin=()
if [ "$kind" = uml ] && command -v taskset >/dev/null; then
  # What this process may run on, as numbers: 0,2-3 is 0 2 3.
  mapfile -t cores < <(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
  mkdir -p "$guest_cache/cores"
  for core in "${cores[@]}"; do
    exec {core_lock}>"$guest_cache/cores/$core"
    if flock --exclusive --nonblock "$core_lock"; then
      pin=(taskset -c "$core")
      break
    fi
    exec {core_lock}>&-
  done
  # More guests than processors share.
  [ "${#pin[@]}" -gt 0 ] || pin=(taskset -c "${cores[$(($$ % ${#cores[@]}))]}")
fi
