#!/bin/sh
# small_disk.sh DIRECTORY BYTES PROGRAM [ARGUMENT...]: runs a program for which DIRECTORY is a disk of its own that is so small.
set -e
directory=$1 bytes=$2
shift 2
# A user namespace, so that anybody may mount; the process stays the same one.
if [ -z "$SMALL_DISK" ]; then
    SMALL_DISK=1 exec unshare --map-root-user --mount "$0" "$directory" "$bytes" "$@"
fi
mount -t tmpfs -o "size=$bytes" none "$directory"
exec "$@"
