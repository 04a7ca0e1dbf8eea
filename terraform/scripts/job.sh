#!/usr/bin/env bash
# A host with conf-local and a test job, which shows the settings of services/web when it starts and at each SIGHUP. All that is
# secret comes from its own SSM parameters.
# shellcheck source=common.sh
. /usr/local/lib/conf-setup/common.sh

ETC=/etc/conf-local

main() {
    debian awscli ca-certificates curl git openssl
    start_agent
    package "$PACKAGE_URL" "$PACKAGE_SHA256"
    once shared/ca "$ETC/ca.crt"
    once shared/trusted-key "$ETC/trusted.pub"
    chmod 644 "$ETC/ca.crt" "$ETC/trusted.pub"
    once jobs/join-token "$ETC/token"
    once jobs/consul-token "$ETC/consul.token"
    run_agent
    run_job
    tell "done: conf-local follows $DATACENTER; the test job writes to the journal of conf-test-job.service"
}

run_agent() {
    local unit=/etc/systemd/system/conf-local.service.d
    install -d -m 755 "$unit"
    printf '[Service]\nEnvironment=CONSUL_HTTP_TOKEN_FILE=%s\n' "$ETC/consul.token" >"$unit/consul.conf"
    chmod 644 "$unit/consul.conf"
    configure conf-local.service "$ETC/config.yaml" <<END
# Written by conf-setup from the variables of terraform.
datacenter: $DATACENTER
host: $MACHINE
surrogate: [https://slave.$DOMAIN:7401]
central: [https://master.$DOMAIN:7400]
consul: [https://consul.$DOMAIN:8501]
ca: $ETC/ca.crt
trusted-key: $ETC/trusted.pub
token-file: $ETC/token
END
}

run_job() {
    cat >/usr/local/lib/conf-setup/job.new <<'END'
#!/bin/sh
show() { echo "services/web is now $(conf-local get services/web | tr -s ' \n' ' ')"; }
trap show HUP
show
while :; do sleep 1 & wait $!; done
END
    chmod 755 /usr/local/lib/conf-setup/job.new
    mv /usr/local/lib/conf-setup/job.new /usr/local/lib/conf-setup/job
    configure conf-test-job.service /etc/systemd/system/conf-test-job.service <<END
[Unit]
Description=A test job that reads services/web
After=conf-local.service
Wants=conf-local.service
[Service]
DynamicUser=yes
ExecStart=/usr/bin/conf-local exec services/web -- /usr/local/lib/conf-setup/job
Restart=always
RestartSec=2
[Install]
WantedBy=multi-user.target
END
}

main
exit
