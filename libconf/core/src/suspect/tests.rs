//! Texts with and without secrets.

use crate::suspect::*;

fn values(text: &str) -> Vec<&str> {
    in_text("some.conf", text).into_iter().map(|one| &text[one.range]).collect()
}

#[test]
fn keys_that_name_secrets() {
    for (line, wanted) in [
        ("requirepass s3cret!x", "s3cret!x"),
        ("# requirepass s3cret!x", "s3cret!x"),
        ("  db.password = correct horse battery   # old one", "correct horse battery"),
        ("  password: \"with \\\" quote\",", "with \\\" quote"),
        ("  \"ssoCookieSignSecret\": 'abc',", "abc"),
        ("export ADMIN_ACCESS_KEY=abc/def+ghi==", "abc/def+ghi=="),
        ("\tsecret \"bm90IGEga2V5\";", "bm90IGEga2V5"),
        ("<db><password> abc </password></db>", "abc"),
        ("ExecStart=/usr/bin/x --user a --api-key=abc --verbose", "abc"),
        ("uri: mongodb://app:h%40rd@db1:27017/x", "h%40rd"),
        ("admin:$apr1$abcdefgh$0123456789abcdefghijkl", "$apr1$abcdefgh$0123456789abcdefghijkl"),
        ("auth_pass => 'it''s", "it"),
        ("PGPASSWORD=hunter22x", "hunter22x"),
        ("  DBPassword = hunter22x", "hunter22x"),
        ("dbpassword: hunter22x", "hunter22x"),
        ("JWTSecret: hunter22x", "hunter22x"),
        ("AWSSecretKey=hunter22x", "hunter22x"),
        ("bindpw hunter22x", "hunter22x"),
        ("olcRootPW: hunter22x", "hunter22x"),
        ("DBPASS=hunter22x", "hunter22x"),
        (r#"key "rndc" { algorithm hmac-sha256; secret "bm90="; };"#, "bm90="),
        (r#"    secret "bm90=";  // of rndc"#, "bm90="),
        ("requirepass s3cret!x # since May", "s3cret!x"),
        (r"  --password=hunter22x \", "hunter22x"),
        (r"  --password hunter22x \", "hunter22x"),
        (r#"command: ["mysql", "--password", "hunter22x", "-v"]"#, "hunter22x"),
        ("password: |\n  hunter22x\nuser: a", "hunter22x"),
        ("  - password: >-\n\n      hunter22x\n      and more\n    user: a", "hunter22x\n      and more"),
        ("password = $ecretWord12", "$ecretWord12"),
        ("password: \"@Home2024\"", "@Home2024"),
        ("password = /abcDEF12345", "/abcDEF12345"),
        ("secret_key = /abc/DEF/12345", "/abc/DEF/12345"),
        ("password = [abcDEF12345", "[abcDEF12345"),
        ("tokens_secret = [\"abc\"]", "[\"abc\"]"),
        ("password = {abcDEF12345", "{abcDEF12345"),
        ("password = %xabcDEF", "%xabcDEF"),
        ("password = ${DB_PASSWORD:hunter22x}", "${DB_PASSWORD:hunter22x}"),
        (r#""credentials": {"password": "b"}"#, "b"),
        (r#"Environment="DB_PASSWORD=a b""#, "a b"),
        ("\u{feff}password hunter22x", "hunter22x"),
        ("x = ghp_0123456789012345678901234567890123456", "ghp_0123456789012345678901234567890123456"),
    ] {
        assert_eq!(values(line), [wanted], "{line}");
    }
    let json = r#"{"user": "a", "password": "b,c", "nested": {"token": "d"}, "url": "x"}"#;
    assert_eq!(values(json), ["b,c", "d"]);
    assert_eq!(values("dsn: host=a password=b dbname=c"), ["b"]);
    assert_eq!(values("password=ab&token=cd"), ["ab&token=cd"], "one that is too long is better than two halves");
}

#[test]
fn secrets_of_other_forms() {
    let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    for (text, wanted) in [
        ("user alice on >s3cret!x ~* +@all", &["s3cret!x"][..]),
        ("# user bob on +@all >one !two >three", &["one", "three"]),
        (&format!("user alice on #{hash} ~jobs:*"), &[hash]),
        ("ACL SETUSER alice on >s3cret!x", &["s3cret!x"]),
        ("sentinel auth-pass main s3cret!x", &["s3cret!x"]),
        ("    proxy_set_header Authorization \"Basic dXNlcjpwYXNz\";", &["dXNlcjpwYXNz"]),
        ("proxy_set_header Authorization \"Bearer a1b2c3d4e5\";", &["a1b2c3d4e5"]),
        ("  Authorization: Bearer a1b2c3d4e5", &["a1b2c3d4e5"]),
        ("curl -H 'Authorization: Basic dXNlcjpwYXNz' http://a", &["dXNlcjpwYXNz"]),
        ("    proxy_set_header X-Api-Key \"k-1234\";", &["k-1234"]),
        ("proxy_set_header X-Api-Key k-1234;", &["k-1234"]),
        ("fastcgi_param DB_PASSWORD 'a b';", &["a b"]),
        ("RequestHeader set X-Auth-Token \"k-1234\"", &["k-1234"]),
        ("define('DB_PASSWORD', 's3cret!x');", &["s3cret!x"]),
        ("define( \"AUTH_KEY\", \"a b c\" );", &["a b c"]),
        ("$user->setPassword('s3cret!x');", &["s3cret!x"]),
        ("CREATE USER 'a'@'%' IDENTIFIED BY 's3cret!x';", &["s3cret!x"]),
        ("ALTER ROLE a WITH LOGIN PASSWORD 's3cret!x';", &["s3cret!x"]),
        ("  user admin insecure-password s3cret!x", &["s3cret!x"]),
        ("  stats auth admin:s3cret!x", &["s3cret!x"]),
        ("curl -s -u admin:s3cret!x http://a", &["s3cret!x"]),
        ("mysqldump -u root -ps3cret!x db", &["s3cret!x"]),
        (r#"command: ["mysql", "-ps3cret!x", "db"]"#, &["s3cret!x"]),
        ("sshpass -p 's3cret x' ssh -p 22 h", &["s3cret x"]),
        ("0 1 * * * root redis-cli -a s3cret!x ping", &["s3cret!x"]),
        ("tool -password s3cret!x", &["s3cret!x"]),
        ("url: https://hooks.slack.com/services/T0000/B0000/abcdefghijkl", &["T0000/B0000/abcdefghijkl"]),
    ] {
        assert_eq!(values(text), wanted, "{text}");
    }
    for text in [
        "proxy_set_header Authorization $http_authorization;",
        "proxy_set_header Authorization \"Basic $auth\";",
        "proxy_set_header X-Api-Key $api_key;",
        "proxy_set_header Host $host;",
        "proxy_set_header Authorization \"\";",
        "auth_basic \"Restricted\";",
        "# Authorization: Basic authentication is used here",
        "define('DB_NAME', 'shop');",
        "define('DB_PASSWORD', getenv('DB_PASSWORD'));",
        "user default on nopass ~* +@all",
        "user www-data;",
        "  user admin password ${ADMIN_PASSWORD}",
        "$user->setName('ann');",
        "ALTER ROLE a WITH LOGIN;",
        "curl -u $USER:$PASSWORD http://a",
        "mysql -p db",
        "ssh -p 22 a",
        "redis-cli -h a -p 6379",
    ] {
        assert_eq!(values(text), Vec::<&str>::new(), "{text}");
    }
}

#[test]
fn values_that_are_no_secrets_are_not_found() {
    for line in [
        "password = ${DB_PASSWORD}",
        "password: {{ vault.db }}",
        "run --password=${DB_PASSWORD} --verbose",
        "run --password=\"$(cat /run/db)\" --verbose",
        "run --password \\",
        "password = ${DB_PASSWORD:?must be set}",
        "password = ${env:DB_PASSWORD}",
        "password = $DB_PASSWORD",
        "password = %(db_password)s",
        "password = @DB_PASSWORD@",
        "secret_key: ../tls/web.key",
        "signing_key: /etc/tls/web.key",
        "\"secrets\": {",
        "\"secrets\": []",
        "\"password\": {\"$secret\": \"DB\"}",
        "-- password: it should be long",
        "# bypass it; the secret rests; pass it on",
        "bypass on_error; compass north;",
        "password_file = /run/db",
        "secret: /run/secrets/db",
        "ssl_certificate_key /etc/nginx/tls/web.key;",
        "token_ttl = 3600",
        "password:",
        "password: \"\"",
        "# masterauth <master-password>",
        "# the password: it should be long",
        "# password: at least 8, and token: as you like",
        "# Password of the user, as in the manual",
        "require_password: true",
        "listen 443 ssl;",
        "compass north",
        "proxy_pass http://backend;",
        "fastcgi_pass unix:/run/php.sock;",
    ] {
        assert_eq!(values(line), Vec::<&str>::new(), "{line}");
    }
}

#[test]
fn keys_in_files() {
    let pem = "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb\n";
    assert_eq!(values(pem), ["-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----"]);
    assert_eq!(values("-----BEGIN PRIVATE KEY-----\nMHc\n"), ["-----BEGIN PRIVATE KEY-----\nMHc\n"]);
    assert_eq!(values("-----BEGIN CERTIFICATE-----\nMHc\n-----END CERTIFICATE-----\n"), Vec::<&str>::new());
    let text = "c29tZSBrZXk=\nbW9yZQ==\n";
    assert_eq!(in_text("mongodb/keyfile", text)[0].range, 0..text.len() - 1);
    let openvpn = "# 2048 bit\n-----BEGIN OpenVPN Static key V1-----\n6acef0\n-----END OpenVPN Static key V1-----";
    assert_eq!(values(openvpn), [&openvpn[11..]]);
    let armored = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQ\n-----END PGP PRIVATE KEY BLOCK-----";
    assert_eq!(values(armored), [armored]);
}

#[test]
fn files_that_are_secrets_as_a_whole() {
    let whole = |file: &str, text: &str| {
        let found: Vec<_> = in_text(file, text).into_iter().map(|one| text[one.range].to_owned()).collect();
        assert_eq!(found, [text.trim()], "{file}");
    };
    whole(".netrc", "machine a login b\npassword c\nmachine d login e password f\n");
    whole("postfix/sasl_passwd", "[mail.a]:587 user:pass\n[mail.b]:587 user:$1$abcdefgh$0123456789\n");
    whole("web.key", "-----BEGIN CERTIFICATE-----\nMHc\n-----END CERTIFICATE-----\nand a passphrase\n");
    whole("web.key", "-----BEGIN CERTIFICATE-----\nMHc\n");
    whole("ta.key", "#\n-----BEGIN OpenVPN Static key V1-----\n6ac\n-----END OpenVPN Static key V1-----\n");
    let public = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n";
    assert_eq!(in_text("web.crt.key", public), []);
    let private = "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----";
    let both = format!("{public}{private}\n{public}");
    let found = in_text("web.key", &both);
    assert_eq!(found.iter().map(|one| &both[one.range.clone()]).collect::<Vec<_>>(), [private]);
}

#[test]
fn binary_files_are_searched() {
    assert_eq!(in_bytes("tls/web.p12", b"\0\x01"), Some("a store of keys"));
    assert_eq!(in_bytes("tls/web.key", b"\0\x01"), Some("a key or password file"));
    assert_eq!(in_bytes("logo.png", b"\0\x01"), None);
    assert_eq!(in_bytes("a.ini", b"# f\xfcr\npassword = hunter22x\n"), Some("a password"));
    assert_eq!(in_bytes("a.ini", b"# f\xfcr\npassword = ${X}\n"), None);
    let wide = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(order).collect() };
    assert_eq!(in_bytes("a.ini", &wide("\u{feff}password hunter22x\r\n", u16::to_le_bytes)), Some("a password"));
    assert_eq!(in_bytes("a.ini", &wide("a=\u{e4}\r\ntoken = hunter22x\r\n", u16::to_be_bytes)), Some("a token"));
    let armored = b"\xff-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQ\n-----END PGP PRIVATE KEY BLOCK-----";
    assert_eq!(in_bytes("a.bin", armored), Some("a private key"));
    assert_eq!(in_bytes("a.bin", b"\xff AGE-SECRET-KEY-1QQQQ"), Some("a private key"));
}
