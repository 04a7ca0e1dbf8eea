# What the setup of every machine needs; each script of a role reads it first. Each step looks whether it is done.
# shellcheck shell=bash
set -euo pipefail
umask 077
# shellcheck disable=SC1091 # Written by cloud-init.
. /etc/conf-setup/settings
export AWS_DEFAULT_REGION=$REGION DEBIAN_FRONTEND=noninteractive
STATE=/var/lib/conf-setup        # What was done on this machine.
SECONDS_TO_WAIT=${SECONDS_TO_WAIT:-900} # For a volume or a parameter; systemd begins again half a minute after.
DAYS_BEFORE_END=30               # A certificate is renewed so long before its end.
mkdir -p "$STATE"

tell() { echo "conf-setup: $MACHINE: $*"; }
fail() {
    tell "$*"
    exit 1
}

# Only Debian's awscli of later versions reads the variable itself.
aws_() { aws ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} --cli-connect-timeout 10 --cli-read-timeout 30 "$@"; }

# wait_for WHAT COMMAND… repeats the command until it ends with 0, and ends after SECONDS_TO_WAIT. The command leaves its reason
# in WHY. One that ends with 2 says that waiting is of no use.
wait_for() {
    local what=$1 end=$((SECONDS + SECONDS_TO_WAIT)) next=0 said="" result
    shift
    while true; do
        result=0 WHY=
        "$@" || result=$?
        [ "$result" != 0 ] || return 0
        [ "$result" != 2 ] || fail "$what: $WHY"
        [ "$SECONDS" -lt "$end" ] || fail "waited $SECONDS_TO_WAIT s for $what, in vain${WHY:+: $WHY}; the next try is in 30 s"
        if [ "$SECONDS" -ge "$next" ] || [ "$WHY" != "$said" ]; then
            tell "waits for $what${WHY:+: $WHY}"
            said=$WHY next=$((SECONDS + 60))
        fi
        sleep 2
    done
}

# debian PACKAGE… installs those of Debian's packages that are not here yet.
debian() {
    local package missing=()
    # What a cut has left half done. A package that cannot be finished may be what a newer one replaces.
    dpkg --configure --pending || tell "goes on with a package that is half installed"
    for package; do
        has "$package" || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || wait_for "Debian's packages ${missing[*]}" install_debian "${missing[@]}"
}
has() { dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
install_debian() { apt update && apt install "$@"; }
# The files of /etc that this setup has written stay.
apt() {
    if ! (umask 022 && apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold -qq --yes --no-install-recommends \
        --allow-downgrades "$@" >"$STATE/apt.log" 2>&1); then
        WHY=$(grep '^E:\|rror' "$STATE/apt.log" | tail -n 3 | tr '\n' ' ')
        return 1
    fi
}

# fetched URL SHA256 prints the path of the file with this sum, which it fetches when it is not here yet.
fetched() {
    local url=$1 sum=$2 file=$STATE/packages/$2.${1##*.} got
    mkdir -p "$STATE/packages"
    if [ ! -e "$file" ]; then
        wait_for "$url" fetch "$url" "$file.new" >&2
        got=$(sha256sum "$file.new" | cut -d' ' -f1)
        if [ "$got" != "$sum" ]; then
            rm "$file.new"
            fail "$url has the SHA-256 $got, and not $sum: one of the two in the variable 'packages' or 'ssm_agent' is of another version. Nothing of it was installed" >&2
        fi
        chmod 644 "$file.new"
        mv "$file.new" "$file"
    fi
    echo "$file"
}
fetch() {
    local fetch=(curl --fail --silent --show-error --location --proto '=https' --max-time 600 --output "$2" "$1")
    case $1 in
        s3://*) fetch=(aws_ s3 cp --only-show-errors "$1" "$2") ;;
    esac
    WHY=$("${fetch[@]}" 2>&1) && return
    WHY=${WHY##*$'\n'}
    return 1
}

# package URL SHA256 installs a .deb, unless it was the last one that was installed from here.
package() {
    local file name
    file=$(fetched "$1" "$2")
    name=$(dpkg-deb --field "$file" Package)
    if [ "$(cat "$STATE/installed-$name" 2>/dev/null)" != "$2" ]; then
        tell "installs $name $(dpkg-deb --field "$file" Version)"
        wait_for "the installation of $name" install_file "$file" "$name"
        echo "$2" >"$STATE/installed-$name"
    fi
}
# By dpkg itself, which also takes another file of the same version, and one in place of a package that is half installed.
install_file() {
    (umask 022 && dpkg --force-confold --install "$1") >"$STATE/dpkg.log" 2>&1 && return
    # What it needs besides.
    apt update && apt --fix-broken install && has "$2" && return
    WHY="$(grep 'rror\|not \|depends' "$STATE/dpkg.log" | head -n 3 | tr -s '\n ' ' ')${WHY:+; $WHY}"
    return 1
}

# volume FOLDER mounts the volume of this machine there. It makes a file system only where the volume has never had anything on
# it, and notes that it does so: a cut in the middle is completed, and a volume that holds anything is never formatted.
volume() {
    local folder=$1 note=$STATE/formats-${VOLUME##*/}
    wait_for "the volume $VOLUME" test -b "$VOLUME"
    if [ ! -e "$note" ] && ! blkid --probe "$VOLUME" >/dev/null; then
        if ! cmp --silent --bytes=16777216 "$VOLUME" /dev/zero; then
            fail "the volume $VOLUME has no file system that Linux knows, and is not empty: it is left as it is. Attach the volume or the snapshot of this fleet, or an empty volume"
        fi
        : >"$note"
        sync "$note" "$STATE"
    fi
    if [ -e "$note" ]; then
        tell "makes a file system on the empty volume $VOLUME"
        mkfs.ext4 -q -F -L "conf-$MACHINE" "$VOLUME"
        sync "$VOLUME"
        rm "$note"
        sync "$STATE"
    fi
    mounted "$folder" "$VOLUME" defaults,nofail,noatime
    # A volume that grew has room to use.
    resize2fs "$VOLUME" >/dev/null 2>&1 || tell "the file system on $VOLUME could not grow"
}

# mounted FOLDER WHAT OPTIONS mounts it now and at each boot.
mounted() {
    local line="$2 $1 auto $3 0 0"
    [ -d "$1" ] || install -d -m 755 "$1"
    if ! grep -qxF "$line" /etc/fstab; then
        sed "\\# $1 #d" /etc/fstab >/etc/fstab.new # Of a volume before this one.
        echo "$line" >>/etc/fstab.new
        chmod 644 /etc/fstab.new
        mv /etc/fstab.new /etc/fstab
        systemctl daemon-reload
    fi
    mountpoint -q "$1" || mount "$1"
}

# parameter NAME FILE writes the value of a parameter below the fleet's path to a file, in one step, and waits until it is there.
parameter() { wait_for "the parameter $PARAMETERS/$1 (conf-master's machine writes it)" read_parameter "$@"; }
read_parameter() {
    if ! WHY=$(aws_ ssm get-parameter --with-decryption --name "$PARAMETERS/$1" --query Parameter.Value --output text 2>&1 >"$2.new"); then
        WHY=${WHY##*$'\n'}
        case $WHY in
            *ParameterNotFound*) WHY= ;;
            *AccessDenied*)
                WHY="may not be read: $WHY. See the role of this instance, and the policy of the KMS key"
                return 2
                ;;
        esac
        return 1
    fi
    [ -s "$2.new" ] || return 1
    # The AWS command line adds a line break to one that is there already.
    printf '%s\n' "$(cat "$2.new")" >"$2.whole"
    mv "$2.whole" "$2"
    rm "$2.new"
}

# once NAME FILE is 'parameter' where the file is not there yet.
once() { [ -s "$2" ] || parameter "$@"; }

# certificate FOLDER USER NAME takes the certificate and its key to FOLDER/tls.crt and FOLDER/tls.key, now and before it ends.
certificate() {
    local folder=$1 user=$2
    if ! lasts "$folder/tls.crt" || [ ! -s "$folder/tls.key" ]; then
        parameter "$3" "$folder/tls.pem"
        openssl pkey -in "$folder/tls.pem" -out "$folder/tls.key.new"
        openssl crl2pkcs7 -nocrl -certfile "$folder/tls.pem" | openssl pkcs7 -print_certs | sed '/^subject\|^issuer\|^$/d' >"$folder/tls.crt.new"
        chown "$user:" "$folder/tls.key.new"
        chmod 644 "$folder/tls.crt.new"
        mv "$folder/tls.key.new" "$folder/tls.key"
        mv "$folder/tls.crt.new" "$folder/tls.crt"
        rm "$folder/tls.pem"
    fi
}
lasts() { openssl x509 -in "$1" -noout -checkend $((DAYS_BEFORE_END * 86400)) >/dev/null 2>&1; }

# configure UNIT FILE writes standard input to the file and sees that the unit runs with it.
configure() {
    cat >"$2.new"
    chmod 644 "$2.new"
    # In this order a cut leaves nothing that runs with another file than this one.
    if ! cmp --silent "$2.new" "$2"; then
        tell "writes $2 and starts $1"
        systemctl stop "$1" || true
        mv "$2.new" "$2"
    fi
    rm -f "$2.new"
    systemctl daemon-reload
    systemctl --quiet reset-failed "$1" 2>/dev/null || true
    systemctl enable --quiet --now "$1" || fail "$1 does not start: $(journalctl --unit "$1" --lines 5 --output cat | tr '\n' ' ')"
}

# start_agent installs the agent of SSM, where the fleet has one.
start_agent() {
    [ -z "$AGENT_URL" ] || package "$AGENT_URL" "$AGENT_SHA256"
}

# whole FOLDER USER gives a folder with all that is in it to its reader. On a volume of before, the user may have had another number.
whole() {
    [ "$(stat -c %U:%G "$1")" = "$2:$2" ] || chown -R "$2:" "$1" # The folder itself comes last.
}

# owned FILE USER MODE gives the file to its reader.
owned() {
    chown "$2:" "$1"
    chmod "$3" "$1"
}
