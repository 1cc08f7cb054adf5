# shellcheck shell=bash disable=SC2034 # used by init
# The guest's side of machines/qemu.sh, sourced by init.
persist_device=/dev/vdc console_device=/dev/ttyS0 out_device=/dev/guest/out

# machine_up : loads drivers; the three ports get their names in /dev/guest, and the TPM is there.
machine_up() {
  local module port n
  for module in virtio_console loop dm-mod dm-crypt overlay tpm_crb; do modprobe "$module" 2>/dev/null; done
  # The ports, by the names that machines/qemu.sh gave them.
  for ((n = 0; n < 100; n++)); do
    for port in /sys/class/virtio-ports/*; do
      [ -s "$port/name" ] && ln -sfn "/dev/${port##*/}" "/dev/guest/$(cat "$port/name")"
    done
    [ -e /dev/guest/control ] && [ -e /dev/guest/stdout ] && [ -e /dev/guest/stderr ] && break
    sleep 0.1
  done
}
