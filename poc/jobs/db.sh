#!/usr/bin/env bash
# A service that reads its files once, when it starts, and has to be restarted for a change.
# usage: db.sh EXPORT/current services/db/latest
current=$1 component=$2 words=''
cd -P "$current" || exit
while IFS=': ' read -r key value; do
    words+="${words:+, }$key $value"
done <"$component/config.yaml"
echo "$EPOCHREALTIME start ${PWD##*/} $$ $words"

# Its work: waiting, until whoever started it is gone.
exec cat >/dev/null
