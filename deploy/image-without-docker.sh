#!/bin/bash
# Builds the image `phf:cpu` where there is no docker and no registry, and runs it with a read-only root.
# As root on Debian or Ubuntu, in a checkout: apt-get install buildah debootstrap && deploy/image-without-docker.sh
# Further arguments go to buildah: --build-arg TORCH_INDEX= takes torch from where pip finds everything else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
work=$(mktemp -d /var/tmp/phf-image-XXXXXX)
root=$work/root
ended() {
    umount --quiet --recursive "$root" || true
    rm -rf --one-file-system "$work"
}
trap ended EXIT

echo "== a base with Python"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/log"
container=$(buildah from scratch)
buildah add --quiet "$container" "$work/base" / >/dev/null
buildah commit --quiet --rm "$container" phf-base >/dev/null

echo "== the image"
buildah build --format docker --layers=false --target cpu --build-arg BASE=localhost/phf-base "$@" --tag phf:cpu .

echo "== a run in it, as its user, where only /cache, /work/runs and /tmp can be written to"
container=$(buildah from localhost/phf:cpu)
mkdir -p "$root" "$work/cache" "$work/runs"
chown 1000:1000 "$work/cache" "$work/runs"
mount --bind "$(buildah mount "$container")" "$root"
mount --bind "$work/cache" "$root/cache"
mount --bind "$work/runs" "$root/work/runs"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev" # so that its end here is not the end of the machine's own
mount -o remount,bind,ro "$root"
inside() {
    chroot --userspec=1000:1000 "$root" env -i PATH=/opt/phf/bin:/usr/bin:/bin HOME=/tmp HF_HOME=/cache \
        MPLCONFIGDIR=/tmp/matplotlib OMP_NUM_THREADS=1 sh -c 'cd /work && exec phf "$@"' phf "$@"
}
inside train --steps 3 --output-dir runs/tried
inside eval runs/tried --limit 8 --n 2
inside doctor --quick --output runs/doctor.json
buildah rm "$container" >/dev/null
