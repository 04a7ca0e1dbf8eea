"""A stand-in for AWS, as a machine of terraform/ meets it: the metadata of its instance by IMDSv2, and SSM and S3.

Usage: aws.py FLEET.json. SSM and S3 are moto's; in front of them stands what moto does not do: who asks is known by the key of the
role that the metadata gave to this address, and the policy of the machine, as terraform rendered it, decides. Signatures are not
verified. Every decision is a line of JSON in the file that FLEET.json names as `log`.

FLEET.json: {"metadata": [address, port], "api": [address, port], "account": …, "region": …, "log": …,
             "key": …, "moto": port, "away": whether SSM and S3 answer nothing,
             "machines": {name: {"address": …, "policy": …, "user_data": base64}}, "objects": {"bucket/key": path}}
It is read again at each request, so that user data may change. It prints `ready …` when it answers.
"""

import base64
import fnmatch
import http.client
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from moto.server import ThreadedMotoServer

FLEET = Path(sys.argv[1])
TOKEN = "stand-in-imds-token"
LOCK = threading.Lock()


def fleet():
    return json.loads(FLEET.read_text())


def listed(value):
    return value if isinstance(value, list) else [value]


def allowed(policy, action, resource, context):
    """Decides as IAM does with the kinds of statements that terraform/ writes; another kind is a mistake here."""
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow" and set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, statement
        acts = any(fnmatch.fnmatchcase(action, pattern) for pattern in listed(statement["Action"]))
        on = any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        holds = True
        for kind, tests in statement.get("Condition", {}).items():
            assert kind == "StringLike", kind
            for key, patterns in tests.items():
                holds &= any(fnmatch.fnmatchcase(context.get(key, ""), pattern) for pattern in listed(patterns))
        if acts and on and holds:
            return True
    return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="text/plain", headers=()):
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class Metadata(Handler):
    def do_PUT(self):
        self.body()
        self.answer(200, TOKEN, headers=[("X-aws-ec2-metadata-token-ttl-seconds", "21600")])

    def do_GET(self):
        # In a container cloud-init cannot know that it is at AWS, and asks without a token. Nobody gets a key without one.
        if "/iam/" in self.path and self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return self.answer(401, "IMDSv2 alone")
        known = fleet()
        found = [(name, it) for name, it in known["machines"].items() if it["address"] == self.client_address[0]]
        if not found:
            return self.answer(404, "")
        name, machine = found[0]
        path = self.path.split("/", 2)[2] # Without the version.
        role = {"AccessKeyId": "ASIA" + name.replace("-", "").upper(), "SecretAccessKey": "secret", "Token": "session", "Code": "Success",
                "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z"}
        pages = {
            "user-data": base64.b64decode(machine["user_data"]),
            "meta-data/": "ami-id\nhostname\ninstance-id\nlocal-hostname\nlocal-ipv4",
            "meta-data/ami-id": "ami-00000000",
            "meta-data/hostname": name,
            "meta-data/local-hostname": name,
            "meta-data/local-ipv4": machine["address"],
            "meta-data/instance-id": "i-" + name,
            "meta-data/iam/security-credentials/": name,
            f"meta-data/iam/security-credentials/{name}": json.dumps(role),
        }
        page = pages.get(path, pages.get(path + "/"))
        self.answer(404, "") if page is None else self.answer(200, page)


class Api(Handler):
    def decide(self):
        known = fleet()
        credential = self.headers.get("Authorization", "").partition("Credential=")[2].split("/")
        by_key = {"ASIA" + name.replace("-", "").upper(): name for name in known["machines"]}
        name = by_key.get(credential[0])
        body = self.body()
        arn = f"arn:aws:ssm:{known['region']}:{known['account']}:parameter"
        wanted = [] # Action, resource, context.
        target = self.headers.get("X-Amz-Target", "")
        if target:
            asked = json.loads(body)
            parameter = arn + asked.get("Name", "*")
            wanted.append((target.replace("AmazonSSM.", "ssm:"), parameter, {}))
            context = {"kms:EncryptionContext:PARAMETER_ARN": parameter}
            if asked.get("Type") == "SecureString":
                wanted.append(("kms:Encrypt", asked.get("KeyId", "the key of AWS"), context))
            elif asked.get("WithDecryption") and self.is_secret(asked["Name"], known):
                wanted.append(("kms:Decrypt", known["key"], context))
        else:
            verb = "s3:GetObject" if self.command in ("GET", "HEAD") else "s3:" + self.command
            wanted.append((verb, "arn:aws:s3:::" + self.path.split("?")[0].lstrip("/"), {}))
        for action, resource, context in wanted:
            ok = name is not None and allowed(json.loads(known["machines"][name]["policy"]), action, resource, context)
            with LOCK, open(known["log"], "a") as log:
                log.write(json.dumps({"machine": name, "action": action, "resource": resource, "allowed": ok}) + "\n")
            if not ok:
                return body, f"{name} is not authorized to perform: {action} on resource: {resource}"
        return body, None

    def is_secret(self, name, known):
        answer = moto(known, "POST", "/", json.dumps({"Name": name}), {"X-Amz-Target": "AmazonSSM.GetParameter"})[2]
        return json.loads(answer).get("Parameter", {}).get("Type") == "SecureString"

    def any(self):
        if fleet()["away"]:
            self.body()
            return self.answer(503, "away")
        body, refusal = self.decide()
        if refusal and self.headers.get("X-Amz-Target"):
            return self.answer(400, json.dumps({"__type": "AccessDeniedException", "message": refusal}), "application/x-amz-json-1.1")
        if refusal:
            return self.answer(403, f"<Error><Code>AccessDenied</Code><Message>{refusal}</Message></Error>", "application/xml")
        hop = {"connection", "transfer-encoding", "content-type"}
        status, headers, answer = moto(fleet(), self.command, self.path, body, dict(self.headers))
        kept = [(key, value) for key, value in headers if key.lower() not in hop and key.lower() not in ("server", "date")]
        kind = dict((key.lower(), value) for key, value in headers).get("content-type", "text/plain")
        self.answer(status, answer, kind, [pair for pair in kept if pair[0].lower() != "content-length" or self.command == "HEAD"])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = any


def moto(known, method, path, body, headers):
    """Asks moto, which takes its region and service from the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", known["moto"])
    sent = {"Authorization": f"AWS4-HMAC-SHA256 Credential=root/20260101/{known['region']}/{'ssm' if 'X-Amz-Target' in headers else 's3'}/aws4_request, SignedHeaders=host, Signature=0",
            "Content-Type": "application/x-amz-json-1.1", **headers}
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, answer.getheaders(), content


def main():
    known = fleet()
    ThreadedMotoServer("127.0.0.1", known["moto"], verbose=False).start()
    place = f"<CreateBucketConfiguration><LocationConstraint>{known['region']}</LocationConstraint></CreateBucketConfiguration>"
    for bucket in {name.split("/")[0] for name in known["objects"]}:
        moto(known, "PUT", "/" + bucket, place, {})
    for name, path in known["objects"].items():
        status, _, answer = moto(known, "PUT", "/" + name, Path(path).read_bytes(), {"Content-Type": "application/octet-stream"})
        assert status == 200, answer
    for kind, place in ((Metadata, known["metadata"]), (Api, known["api"])):
        server = ThreadingHTTPServer(tuple(place), kind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready api={}:{}".format(*known["api"]), flush=True)
    threading.Event().wait()


main()
