#!/usr/bin/env bash
# The machine of conf-slave: the cache of the datacenter. All that is secret comes from its own SSM parameters.
# shellcheck source=common.sh
. /usr/local/lib/conf-setup/common.sh

HOME_FOLDER=/var/lib/conf-slave
ETC=/etc/conf-slave

main() {
    debian awscli ca-certificates curl git openssl
    start_agent
    [ -z "$VOLUME" ] || volume "$HOME_FOLDER"
    package "$PACKAGE_URL" "$PACKAGE_SHA256"
    whole "$HOME_FOLDER" conf-slave
    once shared/ca "$ETC/ca.crt"
    once shared/trusted-key "$ETC/trusted.pub"
    chmod 644 "$ETC/ca.crt" "$ETC/trusted.pub"
    once slave/token "$ETC/token"
    once slave/consul-token "$ETC/consul.token"
    owned "$ETC/token" conf-slave 600
    owned "$ETC/consul.token" conf-slave 600
    certificate "$ETC" conf-slave slave/tls
    serve
    tell "done: conf-slave serves $DATACENTER at https://slave.$DOMAIN:7401"
}

serve() {
    local unit=/etc/systemd/system/conf-slave.service.d
    install -d -m 755 "$unit"
    printf '[Service]\nEnvironment=CONSUL_HTTP_TOKEN_FILE=%s\n' "$ETC/consul.token" >"$unit/consul.conf"
    chmod 644 "$unit/consul.conf"
    if [ -n "$VOLUME" ]; then
        # Without its volume it does not begin anew on the root disk.
        printf '[Unit]\nRequiresMountsFor=%s\n' "$HOME_FOLDER" >"$unit/volume.conf"
        chmod 644 "$unit/volume.conf"
    fi
    configure conf-slave.service "$ETC/config.yaml" <<END
# Written by conf-setup from the variables of terraform.
datacenter: $DATACENTER
central: [https://master.$DOMAIN:7400]
listen: 0.0.0.0:7401
allowed-host: [slave.$DOMAIN]
tls-cert: $ETC/tls.crt
tls-key: $ETC/tls.key
ca: $ETC/ca.crt
consul: [https://consul.$DOMAIN:8501]
state: $HOME_FOLDER
trusted-key: $ETC/trusted.pub
token-file: $ETC/token
END
}

main
exit
