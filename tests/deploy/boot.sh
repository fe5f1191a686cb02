#!/usr/bin/env bash
# Becomes the first process of a small machine: a systemd of its own over a copy of this machine's files, in which whatever is written is
# gone with it. Run by machine.py in new namespaces.
#
#   boot.sh DIRECTORY      an empty directory, in which the files are put together
set -euo pipefail

directory=$1
root=$directory/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$directory"
mkdir "$directory/upper" "$directory/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for temporary in run tmp dev var/log; do mount -t tmpfs -o mode=755 tmpfs "$root/$temporary"; done
chmod 1777 "$root/tmp"
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<<"$device"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
mkdir -m 1777 "$root/dev/shm"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ip link set lo up
# Whatever this machine has enabled stays off.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires
hostname machine-under-test
cd "$root"
mkdir -p .before
pivot_root . .before
umount --lazy /.before
exec env --ignore-environment container=deploy-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=basic.target --show-status=no --log-target=journal
