#!/usr/bin/env bash
# A service that knows nothing of conf: it reads its files, and reads them again on SIGHUP.
# usage: web.sh EXPORT/current services/web/latest
current=$1 component=$2

read_configuration() {
    local words='' key value page secret
    # Entered once: everything below here is of one snapshot, whatever is switched meanwhile.
    cd -P "$current" || return
    while IFS=': ' read -r key value; do
        words+="${words:+, }$key $value"
    done <"$component/config.yaml"
    # Made from a template on this host; the secret in it is for this program's eyes alone.
    { read -r page && read -r secret; } <"$component/page.txt"
    words+=", page \"$page\", a key of ${#secret} characters"
    # When, why, at which change, by whom, and what was read.
    echo "$1 $2 ${PWD##*/} $$ $words"
}

trap 'read_configuration $EPOCHREALTIME SIGHUP' HUP
read_configuration $EPOCHREALTIME start

# Its work: waiting, until whoever started it is gone.
exec 3<&0
cat <&3 >/dev/null &
while kill -0 $! 2>/dev/null; do wait $!; done
