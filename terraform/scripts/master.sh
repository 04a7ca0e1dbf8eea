#!/usr/bin/env bash
# The machine of conf-master. It makes all that is secret in this fleet, on its own volume, and writes what others need to SSM
# parameters: only it may write them, and it may read none.
# shellcheck source=common.sh
. /usr/local/lib/conf-setup/common.sh

DISK=/var/lib/conf-volume # The volume. Only its folder 'master' is conf-master's own.
HOME_FOLDER=$DISK/master
REPOSITORY=$HOME_FOLDER/central.git
SECRETS=$DISK/setup # For root alone: the authority's key, tokens on their way, what was published already.
TLS=$DISK/tls
DAYS=365

main() {
    debian awscli ca-certificates curl git openssl python3-minimal
    start_agent
    volume "$DISK"
    install -d -m 750 "$HOME_FOLDER"
    package "$PACKAGE_URL" "$PACKAGE_SHA256"
    whole "$HOME_FOLDER" conf-master
    install -d -m 700 "$SECRETS" "$SECRETS/tokens"
    make_repository
    make_certificates
    serve
    publish_all
    tell "done: conf-master serves https://master.$DOMAIN:7400"
}

# In a folder aside at first, so that a cut leaves no half of it in its place.
make_repository() {
    local making=$HOME_FOLDER/making
    if [ ! -e "$REPOSITORY" ]; then
        if [ ! -e "$making/whole" ]; then
            rm -rf "$making"
            install -d -m 700 -o conf-master -g conf-master "$making"
            runuser -u conf-master -- conf-master init --repo "$making/central.git" >/dev/null
            : >"$making/whole"
            sync
        fi
        for file in "$making"/central.git.*; do
            [ ! -e "$file" ] || mv "$file" "$HOME_FOLDER/"
        done
        mv "$making/central.git" "$REPOSITORY"
        sync
    fi
    rm -rf "$making"
}

make_certificates() {
    install -d -m 755 "$TLS"
    if [ ! -s "$SECRETS/ca.key" ]; then
        openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$SECRETS/ca.key.new"
        mv "$SECRETS/ca.key.new" "$SECRETS/ca.key"
    fi
    if [ ! -s "$TLS/ca.crt" ]; then
        openssl req -x509 -key "$SECRETS/ca.key" -days 3650 -subj "/CN=configuration" -out "$TLS/ca.crt.new"
        chmod 644 "$TLS/ca.crt.new"
        mv "$TLS/ca.crt.new" "$TLS/ca.crt"
    fi
    local names=IP:127.0.0.1 name
    for name in $MASTER_NAMES; do
        names+=,DNS:$name
    done
    make_certificate master "$names"
    owned "$TLS/master.key" conf-master 600
    make_certificate slave "DNS:slave.$DOMAIN"
    make_certificate consul "DNS:consul.$DOMAIN,IP:127.0.0.1"
}

# make_certificate SERVER NAMES makes one when there is none for these names, or when it is about to end.
make_certificate() {
    local file=$TLS/$1
    if [ "$(cat "$file.names" 2>/dev/null)" != "$2" ] || ! lasts "$file.crt"; then
        tell "makes a certificate for $2"
        [ -s "$file.key" ] || { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$file.key.new" && mv "$file.key.new" "$file.key"; }
        openssl req -new -key "$file.key" -subj "/CN=$1" -addext "subjectAltName=$2" -out "$file.csr"
        openssl x509 -req -in "$file.csr" -CA "$TLS/ca.crt" -CAkey "$SECRETS/ca.key" -CAserial "$SECRETS/ca.srl" -CAcreateserial \
            -copy_extensions copy -days "$DAYS" -out "$file.crt.new" 2>/dev/null
        chmod 644 "$file.crt.new"
        mv "$file.crt.new" "$file.crt"
        echo "$2" >"$file.names"
        rm "$file.csr"
    fi
}

serve() {
    local name names=
    for name in $MASTER_NAMES; do
        names+="${names:+, }$name"
    done
    # Without the volume that folder is not there, and the unit does not start.
    install -d -m 755 /etc/systemd/system/conf-master.service.d
    printf '[Unit]\nRequiresMountsFor=%s\n[Service]\nReadWritePaths=%s\n' "$DISK" "$HOME_FOLDER" >/etc/systemd/system/conf-master.service.d/volume.conf
    chmod 644 /etc/systemd/system/conf-master.service.d/volume.conf
    configure conf-master.service /etc/conf-master/config.yaml <<END
# Written by conf-setup from the variables of terraform.
repo: $REPOSITORY
listen: 0.0.0.0:7400
tls-cert: $TLS/master.crt
tls-key: $TLS/master.key
allowed-host: [$names]
END
}

publish_all() {
    local name
    publish shared/ca String "$TLS/ca.crt"
    publish shared/trusted-key String "$REPOSITORY.key.pub"

    # The first administrator's token goes where the administrator reads it, and leaves this machine.
    if [ -e "$REPOSITORY.token" ]; then
        publish admin/token SecureString "$REPOSITORY.token"
        rm "$REPOSITORY.token"
    fi

    for name in slave consul; do
        cat "$TLS/$name.crt" "$TLS/$name.key" >"$SECRETS/$name.pem"
        publish "$name/tls" SecureString "$SECRETS/$name.pem"
        rm "$SECRETS/$name.pem"
    done

    publish_token slave/token slave --slave "$DATACENTER"
    publish_token jobs/join-token jobs --join "$DATACENTER"

    # The tokens of Consul, which Consul's own machine enters there.
    for name in management slave jobs; do
        [ -s "$SECRETS/consul-$name" ] || cat /proc/sys/kernel/random/uuid >"$SECRETS/consul-$name"
        publish "consul/token-$name" SecureString "$SECRETS/consul-$name"
    done
    publish slave/consul-token SecureString "$SECRETS/consul-slave"
    publish jobs/consul-token SecureString "$SECRETS/consul-jobs"
}

# publish_token PARAMETER NAME FLAG VALUE makes a token of conf-master for NAME, publishes it, and keeps no copy.
publish_token() {
    local parameter=$1 name=$2 file=$SECRETS/tokens/$2
    if [ ! -e "$(published "$parameter")" ]; then
        if [ ! -s "$file" ]; then
            # One whose text a cut has lost is of no use to anybody.
            revoke_lost "$name"
            rm -f "$file" "$file.new"
            conf-master token add "$name" "${@:3}" --out "$file.new" --repo "$REPOSITORY" >/dev/null
            mv "$file.new" "$file"
        fi
        publish "$parameter" SecureString "$file"
    fi
    rm -f "$file"
}

# revoke_lost NAME ends the tokens of this name. A host that has joined is in the same list, by its key.
revoke_lost() {
    local token ids
    ids=$(conf-master token list --json --repo "$REPOSITORY" | python3 -c '
import json, sys
for token in json.load(sys.stdin):
    if token["name"] == sys.argv[1] and token["good"] and not token["key"]:
        print(token["id"])' "$1")
    for token in $ids; do
        tell "revokes the token $token of $1, which is in no parameter"
        conf-master token revoke "$token" --repo "$REPOSITORY" >/dev/null
    done
}

# publish PARAMETER TYPE FILE writes the content of the file to the parameter, unless it did so already.
publish() {
    local note sum
    note=$(published "$1")
    sum=$(sha256sum <"$3")
    if [ "$(cat "$note" 2>/dev/null)" != "$sum" ]; then
        wait_for "the parameter $PARAMETERS/$1, which this machine writes" put_parameter "$@"
        tell "wrote the parameter $PARAMETERS/$1"
        mkdir -p "${note%/*}"
        echo "$sum" >"$note.new"
        mv "$note.new" "$note"
    fi
}
published() { echo "$SECRETS/published$PARAMETERS/$1"; }
put_parameter() {
    local key=()
    [ "$2" = String ] || key=(--key-id "$KMS_KEY")
    # By a file, since other users of the machine see a command line.
    WHY=$(aws_ ssm put-parameter --name "$PARAMETERS/$1" --type "$2" "${key[@]}" --value "file://$3" --overwrite 2>&1 >/dev/null) && return
    WHY=${WHY##*$'\n'}
    case $WHY in
        *AccessDenied*)
            WHY="may not be written: $WHY. See the role of this instance, and the policy of the KMS key"
            return 2
            ;;
    esac
    return 1
}

main
exit
