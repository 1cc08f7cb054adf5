# shellcheck shell=bash disable=SC2034 # used by init
# The guest's side of machines/uml.sh, sourced by init.
persist_device=/dev/ubdc console_device=/dev/tty0 out_device=/dev/ubdd

# machine_up : loads drivers; the three ports get their names in /dev/guest, and the TPM is there.
machine_up() {
  local n=1 port hold
  ln -sfn "/.host/guest/machine.d/modules/$(uname -r)" "/lib/modules/$(uname -r)"
  for port in control stdout stderr; do
    exec {hold}<>/dev/ttyS$n # keeps the serial line open, and so raw
    stty raw -echo -opost <&"$hold"
    ln -sfn /dev/ttyS$n /dev/guest/$port
    n=$((n + 1))
  done
  # The TPM runs in the guest; its state is a disk of its own, so it outlives the guest as a TPM does, also one that is killed.
  mkdir -p /run/tpm
  mount -t ext4 -o noatime,sync /dev/ubde /run/tpm
  setsid swtpm chardev --tpm2 --vtpm-proxy --tpmstate dir=/run/tpm --flags startup-clear </dev/null >/var/log/swtpm.log 2>&1 &
  for ((n = 0; n < 200; n++)); do
    [ -e /dev/tpmrm0 ] && break
    sleep 0.05
  done
  measure
  # Of the kernel's own trusted keys, dm-crypt and what else refers to them, so they come after the TPM that they need.
  modprobe trusted source=tpm
  modprobe dm-crypt
}

# measure : extends the PCRs that a firmware extends; there is none here. As with a real one the machine's size goes into PCR 1.
measure() {
  local words=() pcr what
  for pcr in 0 1 2 3 4 5 6 7; do
    what="layervault guest $pcr"
    [ "$pcr" != 1 ] || what+=" $(nproc) $(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)"
    words+=("$pcr:sha1=$(sha1sum <<<"$what" | cut -c1-40),sha256=$(sha256sum <<<"$what" | cut -c1-64)")
  done
  tpm2_pcrextend -T device:/dev/tpm0 "${words[@]}"
}
