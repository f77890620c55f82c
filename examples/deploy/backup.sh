#!/bin/sh
# Backs TrustGate up while it serves, and keeps the last backups: backup.sh FOLDER [DAYS]
# The file is complete or not there; an old one goes only after a new one has been written.
set -eu
folder=${1:?"usage: backup.sh FOLDER [DAYS]"}
days=${2:-30}
umask 077
mkdir -p "$folder"
file=$folder/trustgate-$(date -u +%Y%m%dT%H%M%SZ).backup
trap 'rm -f "$file.part"' EXIT
trustgate backup --force "$file.part"
mv "$file.part" "$file"
find "$folder" -maxdepth 1 -name 'trustgate-*.backup' -mtime "+$days" -exec rm -f {} +
