"""Makes the dev installation's random secrets; existing ones stay.

Runs in the cluster as a Job that may create and read Secrets of its namespace, and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from cytosynth.stack.certs import make_certificates

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TENANT = "laboratory"
HOSTS = ("localhost", "127.0.0.1", "edge", "edge.cytosynth", "edge.cytosynth.svc")


def all_secrets() -> dict[str, dict[str, str]]:
    """New secrets by name: passwords, keys and certificates."""
    database, redis, access, key = (secrets.token_hex(24) for _ in range(4))
    identity = {
        "name": "cytosynth",
        "credentials": [{"accessKey": access, "secretKey": key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    with tempfile.TemporaryDirectory() as folder:
        made = make_certificates(Path(folder), tenants=(TENANT,), hosts=HOSTS)
        authority = made.ca.read_text()
        server, client = made.server, made.client(TENANT)
        certificates = {
            "edge-tls": {
                "tls.crt": server.certificate.read_text(),
                "tls.key": server.key.read_text(),
                "ca.crt": authority,
            },
            "edge-client-ca": {"ca.crt": authority},
            f"client-{TENANT}": {
                f"client-{TENANT}.pem": client.certificate.read_text(),
                f"client-{TENANT}.key": client.key.read_text(),
                "ca.pem": authority,
            },
        }
    return certificates | {
        "cytosynth-database": {
            "password": database,
            "url": f"postgresql+psycopg://cytosynth:{database}@postgres:5432/cytosynth",
        },
        "cytosynth-redis": {"password": redis},
        "cytosynth-store": {
            "access-key-id": access,
            "secret-access-key": key,
            "endpoint-url": "http://object-store:8333",
        },
        "object-store-identities": {"s3.json": json.dumps({"identities": [identity]})},
    }


def create(name: str, values: dict[str, str], server: str, namespace: str, token: str) -> bool:
    """Creates a Secret; False if there is one of this name.

    Raises:
        urllib.error.HTTPError: the API refused.
    """
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }
    request = urllib.request.Request(
        f"{server}/api/v1/namespaces/{namespace}/secrets",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    authority = ACCOUNT / "ca.crt"
    context = ssl.create_default_context(cafile=str(authority)) if authority.exists() else None
    # Inside the cluster, whatever proxy the environment names.
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        direct.open(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code == 409:
            return False
        raise
    return True


def main() -> int:
    """Creates missing secrets, certificates first."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    namespace = (ACCOUNT / "namespace").read_text()
    token = (ACCOUNT / "token").read_text()
    for name, values in all_secrets().items():
        made = create(name, values, f"https://{host}:{port}", namespace, token)
        sys.stdout.write(f"secret/{name} {'created' if made else 'exists'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
