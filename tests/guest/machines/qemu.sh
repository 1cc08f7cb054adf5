# shellcheck shell=bash disable=SC2154 # what tests/guest/run has set
# The guest as a virtual machine of qemu: Debian's own kernel, with KVM where that works, else emulated. Sourced by tests/guest/run, whose
# variables it reads (work, system, memory, cpus, disk, kept, tpm_dir, shell). machines/uml.sh is the other machine, with the same functions.

# machine_throwaway BASE : sets disk to a copy of the raw disk BASE that costs nothing and leaves BASE as it is.
machine_throwaway() {
  disk=$work/persist.qcow2
  qemu-img create -q -f qcow2 -b "$1" -F raw "$disk"
}

# machine_brings DIR : puts what this machine wants in the guest into DIR, which becomes /.host/guest/machine.d: nothing.
machine_brings() { :; }

# machine_tpm : a software TPM beside the machine. It ends by itself when qemu goes away.
machine_tpm() {
  swtpm socket --tpm2 --tpmstate "dir=$tpm_dir" --ctrl "type=unixio,path=$work/tpm.sock" --flags startup-clear --terminate \
    >"$work/tpm.log" 2>&1 7>&- 8>&- &
  tpm=$!
  local i
  for ((i = 0; i < 100; i++)); do
    if [ -S "$work/tpm.sock" ]; then return; fi
    kill -0 "$tpm" 2>/dev/null || break
    sleep 0.05
  done
  die "swtpm did not start: $(cat "$work/tpm.log")"
}

# machine_start : starts the machine in the background and sets machine to its process.
machine_start() {
  local accel console port
  # A large translation buffer: dockerd, containerd, runc and the kernel together overflow the default, and each overflow throws all away.
  accel=(-accel "tcg,thread=multi,tb-size=1024" -cpu max)
  [ "$kind" != kvm ] || accel=(-accel kvm -cpu host)
  local ports=(-device virtio-serial-pci)
  for port in control stdout stderr; do
    ports+=(-chardev "file,id=$port,path=$work/$port" -device "virtserialport,chardev=$port,name=$port")
  done
  if [ -n "${GUEST_OUT:-}" ]; then
    ports+=(-chardev "file,id=out,path=$work/out.tar" -device "virtserialport,chardev=out,name=out")
  fi
  console=(-serial "file:$work/console")
  [ -z "$shell" ] || console=(-chardev "stdio,id=console,signal=off" -serial chardev:console)
  # Of this run only: nothing is lost with it. A kept disk: writes reach the host's page cache as they complete and its disk when the guest
  # flushes. Killing qemu is a power cut of the guest, and what the guest had synced is there at the next boot.
  local disk_options=format=raw,cache=unsafe
  [ -z "$kept" ] || disk_options=format=raw,cache=writeback
  [[ $disk != *.qcow2 ]] || disk_options=format=qcow2,cache=unsafe

  machine_tpm
  # A login owns the terminal; otherwise what qemu itself says is kept for the report of a failure.
  exec 6<&0
  if [ -n "$shell" ]; then exec 4>&1; else exec 4>"$work/machine.log"; fi
  # No lock on the system: nobody writes to it, and User-Mode Linux, which locks all of it to read, would keep qemu out.
  # pdeathsig: if the script is killed outright, qemu goes too (and swtpm after it).
  setpriv --pdeathsig KILL "${pin[@]}" qemu-system-x86_64 "${accel[@]}" -smp "$cpus" -m "$memory" -display none -monitor none -no-reboot -nodefaults \
    -kernel "$system/vmlinuz" -initrd "$system/initrd.img" \
    -append "guest.disks=vd console=ttyS0 maxcpus=1 quiet loglevel=4 panic=-1 no_timer_check mitigations=off random.trust_cpu=on ${GUEST_APPEND:-}" \
    -drive "file=$system/root.img,if=virtio,format=raw,snapshot=on,cache=unsafe,file.locking=off" \
    -drive "file=$work/host.img,if=virtio,format=raw,readonly=on" \
    -drive "file=$disk,if=virtio,$disk_options" \
    -device virtio-rng-pci \
    -chardev "socket,id=tpm,path=$work/tpm.sock" -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0 \
    "${ports[@]}" "${console[@]}" <&6 >&4 2>&1 7>&- 8>&- &
  machine=$!
  exec 4>&- 6<&-
}

# machine_kill : ends the machine as a pulled plug does, and returns when nothing of it is left.
machine_kill() {
  kill -KILL "$machine" 2>/dev/null || true
  # Redirected, because bash reports a killed child where it waits for it.
  wait "$machine" 2>/dev/null || true
  # The TPM writes its state as it changes, so it may be ended at any time.
  [ -z "${tpm:-}" ] || kill "$tpm" 2>/dev/null || true
  [ -z "${tpm:-}" ] || wait "$tpm" 2>/dev/null || true
}
