# shellcheck shell=bash disable=SC2154 # what tests/guest/run has set
# The guest as a User-Mode Linux: a kernel of our own building (tests/guest/kernel) that runs as a process of this machine, at its speed. Sourced by
# tests/guest/run, whose variables it reads (work, system, memory, cpus, disk, kept, tpm_dir, shell). machines/qemu.sh is the other machine, with the
# same functions.

# machine_throwaway BASE : sets disk to a copy of the raw disk BASE that costs nothing and leaves BASE as it is.
machine_throwaway() {
  disk=$work/persist.cow,$1
}

# machine_brings DIR : puts what this machine wants in the guest into DIR, which becomes /.host/guest/machine.d.
machine_brings() {
  cp -r "$kernel/modules" "$1/modules"
}

# machine_start : starts the machine in the background and sets machine to its process.
machine_start() {
  local console=con0=null,fd:1 memory_dir=/tmp out=() user=()
  [ -z "$shell" ] || console=con0=fd:0,fd:1
  # The guest's memory is a file without a name: in memory, where there is room for it.
  if [ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt $((5 << 20)) ] 2>/dev/null; then memory_dir=/dev/shm; fi
  if [ -n "${GUEST_OUT:-}" ]; then
    # A disk, which is faster than a serial line; sparse, larger than what anybody brings out.
    truncate -s 64G "$work/out.tar"
    out=("ubd3=$work/out.tar")
  fi
  # Whoever is not root may have a PID namespace within a user namespace.
  [ "$(id -u)" = 0 ] || user=(--user --map-root-user)
  # The TPM's state is a small disk: swtpm replaces a file at each write, on which hostfs has been seen to fail.
  if [ ! -e "$tpm_dir/state.img" ]; then
    truncate -s 16M "$tpm_dir/state.img"
    mke2fs -q -t ext4 "$tpm_dir/state.img"
  fi
  # A login owns the terminal; otherwise what the program itself says is on the console.
  exec 6<&0
  if [ -n "$shell" ]; then exec 4>&1; else exec 4>"$work/console"; fi
  # Linux is several processes: a PID namespace of its own ends them together, and pdeathsig ends that with the script, even if it is
  # killed outright. The file `alive` is open in each of them.
  # shellcheck disable=SC2016,SC2086 # for the namespace's shell; a list of words
  TMPDIR=$memory_dir setpriv --pdeathsig KILL "${pin[@]}" unshare "${user[@]}" --pid --fork --kill-child=KILL sh -c '"$@"; exit $?' linux \
    "$kernel/linux" "mem=$memory" "ncpus=$cpus" seccomp=on "umid=guest" "uml_dir=$work" "initrd=$system/initrd-plain.img" \
    "ubd0=$work/root.cow,$system/root.img" "ubd1r=$work/host.img" "ubd2=$disk" "${out[@]}" "ubd4=$tpm_dir/state.img" \
    con=null "$console" ssl=null ssl1=null,fd:3 ssl2=null,fd:4 ssl3=null,fd:5 console=tty0 quiet loglevel=4 panic=-1 random.trust_cpu=on \
    guest.disks=ubd ${GUEST_APPEND:-} \
    <&6 >&4 2>&1 6>"$work/alive" 3>"$work/control" 4>"$work/stdout" 5>"$work/stderr" 7>&- 8>&- &
  machine=$!
  exec 4>&- 6<&-
}

# machine_kill : ends the machine as a pulled plug does, and returns when nothing of it is left.
machine_kill() {
  kill -KILL "$machine" 2>/dev/null || true
  # Redirected, because bash reports a killed child where it waits for it.
  wait "$machine" 2>/dev/null || true
  # The namespace ends a moment after its parent, and until then Linux may write to the disk.
  while fuser -s "$work/alive" 2>/dev/null; do sleep 0.02; done
}
