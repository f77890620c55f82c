#!/bin/sh
# TrustGate in one file: this head, and a tar.gz of the program after it. The first start unpacks it, once for each
# build, into a folder of this user's; every start then becomes the program that lies there (exec: same process, same
# signals). TRUSTGATE_UNPACK_DIR names another place, for users without a home.
set -eu
build=@BUILD@
callers_path=${PATH-}
PATH=/usr/local/bin:/usr/bin:/bin
place=${TRUSTGATE_UNPACK_DIR:-${XDG_CACHE_HOME:-${HOME:-/var/tmp/trustgate-$(id -u)}/.cache}/trustgate}
folder=$place/$build
if [ ! -f "$folder/.complete" ]; then
    umask 077
    mkdir -p "$place" || { echo "TrustGate cannot unpack itself into $place: set TRUSTGATE_UNPACK_DIR." >&2; exit 1; }
    new=$(mktemp -d "$place/unpacking.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' INT TERM HUP
    tail -n +@PAYLOAD_LINE@ "$0" | tar -xzf - -C "$new" || { echo "TrustGate cannot unpack itself into $place." >&2; exit 1; }
    : > "$new/.complete"
    # Of two first starts at once one comes too late, and uses what the other has made.
    mv -T "$new" "$folder" 2> /dev/null || [ -f "$folder/.complete" ] || { echo "$folder is in the way." >&2; exit 1; }
    rm -rf "$new"
    trap - EXIT INT TERM HUP
fi
# Another user's folder is never run.
[ -O "$place" ] && [ -O "$folder" ] || { echo "$folder does not belong to this user: remove it, or set TRUSTGATE_UNPACK_DIR." >&2; exit 1; }
PATH=$callers_path
[ -n "$PATH" ] || unset PATH
exec "$folder/trustgate" "$@"
