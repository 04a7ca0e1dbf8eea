#!/usr/bin/env bash
# The machine of Consul: one server that holds the pointers of the datacenter, over TLS and with ACLs that deny by default. What is
# lost with it, conf-slave publishes again.
# shellcheck source=common.sh
. /usr/local/lib/conf-setup/common.sh

ETC=/etc/consul
DATA=/var/lib/consul
API=https://127.0.0.1:8501

main() {
    debian awscli ca-certificates curl openssl python3-minimal
    start_agent
    install_consul
    install -d -m 755 "$ETC"
    install -d -m 700 -o consul -g consul "$DATA"
    once shared/ca "$ETC/ca.crt"
    chmod 644 "$ETC/ca.crt"
    local name
    for name in management slave jobs; do
        once "consul/token-$name" "$ETC/token-$name"
    done
    certificate "$ETC" consul consul/tls
    printf 'X-Consul-Token: %s\n' "$(cat "$ETC/token-management")" >"$ETC/header"
    serve
    enter_tokens
    tell "done: Consul serves https://consul.$DOMAIN:8501"
}

install_consul() {
    local file
    id consul >/dev/null 2>&1 || useradd --system --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin consul
    file=$(fetched "$PACKAGE_URL" "$PACKAGE_SHA256")
    if [ "$(cat "$STATE/installed-consul" 2>/dev/null)" != "$PACKAGE_SHA256" ]; then
        python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("consul"))' "$file" >/usr/local/bin/consul.new ||
            fail "$PACKAGE_URL holds no program 'consul'"
        chmod 755 /usr/local/bin/consul.new
        mv /usr/local/bin/consul.new /usr/local/bin/consul
        systemctl try-restart consul.service 2>/dev/null || true # There is none at first.
        echo "$PACKAGE_SHA256" >"$STATE/installed-consul"
    fi
}

serve() {
    # The keys of TLS at the top are an older way to write them, which every version reads. The ports that nobody needs are closed.
    cat >"$ETC/consul.hcl.new" <<END
# Written by conf-setup from the variables of terraform.
server = true
bootstrap_expect = 1
node_name = "consul"
data_dir = "$DATA"
bind_addr = "127.0.0.1"
client_addr = "0.0.0.0"
ports { http = -1, https = 8501, dns = -1, grpc = -1, serf_wan = -1 }
connect { enabled = false }
acl { enabled = true, default_policy = "deny", tokens { master = "$(cat "$ETC/token-management")" } }
ca_file = "$ETC/ca.crt"
cert_file = "$ETC/tls.crt"
key_file = "$ETC/tls.key"
limits { http_max_conns_per_client = 1000 }
disable_update_check = true
END
    owned "$ETC/consul.hcl.new" consul 600
    if ! cmp --silent "$ETC/consul.hcl.new" "$ETC/consul.hcl"; then
        systemctl stop consul.service 2>/dev/null || true # As in 'configure'.
        mv "$ETC/consul.hcl.new" "$ETC/consul.hcl"
    fi
    rm -f "$ETC/consul.hcl.new"
    configure consul.service /etc/systemd/system/consul.service <<END
[Unit]
Description=Consul: pointers of the datacenter
Wants=network-online.target
After=network-online.target
[Service]
User=consul
ExecStart=/usr/local/bin/consul agent -config-file $ETC/consul.hcl
ExecReload=/bin/kill -HUP \$MAINPID
Restart=always
RestartSec=1
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=$DATA
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
[Install]
WantedBy=multi-user.target
END
    # A certificate that was renewed. One that is starting reads it anyway.
    systemctl reload consul.service || true
    wait_for "Consul to have a leader" leads
}
leads() { asks GET /v1/status/leader | grep -q ':'; }

# asks METHOD PATH asks Consul, with standard input as the body of PUT. The token is in a file, since others see a command line.
asks() {
    local body=()
    [ "$1" != PUT ] || body=(--data-binary @-)
    curl --silent --max-time 30 --cacert "$ETC/ca.crt" --header "@$ETC/header" --request "$1" "${body[@]}" "$API$2"
}

# The policies of conf-slave and of hosts, and their tokens, of which the text is given.
enter_tokens() {
    enter slave "key \"configurations/snapshots/$DATACENTER\" { policy = \"write\" }
key \"configurations/projection\" { policy = \"write\" }
key_prefix \"configurations/services/\" { policy = \"write\" }
key_prefix \"configurations/applications/\" { policy = \"write\" }
key_prefix \"configurations/devices/\" { policy = \"write\" }
service \"conf-slave\" { policy = \"write\" }"
    enter jobs "key \"configurations/snapshots/$DATACENTER\" { policy = \"read\" }"
}

# enter NAME RULES. Each is entered until Consul shows it: it may start again meanwhile. Consul refuses what is there already, which is
# as good.
enter() {
    local name=conf-$1
    wait_for "Consul to know the policy $name" has_policy "$name" "$2"
    wait_for "Consul to know the token of $1" knows "$1" "$name"
}
has_policy() {
    asks GET "/v1/acl/policy/name/$1" | grep -q "\"$1\"" && return
    python3 -c 'import json, sys; json.dump({"Name": sys.argv[1], "Rules": sys.argv[2]}, sys.stdout)' "$1" "$2" | asks PUT /v1/acl/policy >/dev/null
    return 1
}
knows() {
    printf 'X-Consul-Token: %s\n' "$(cat "$ETC/token-$1")" >"$ETC/header-of-token"
    if curl --silent --fail --max-time 30 --cacert "$ETC/ca.crt" --header "@$ETC/header-of-token" "$API/v1/acl/token/self" >/dev/null; then
        rm "$ETC/header-of-token"
        return
    fi
    printf '{"SecretID": "%s", "Description": "%s", "Policies": [{"Name": "%s"}]}' "$(cat "$ETC/token-$1")" "$2" "$2" | asks PUT /v1/acl/token >/dev/null
    return 1
}

main
exit
