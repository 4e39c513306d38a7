"""Make the secrets of docker-compose.yml: `python3 deploy/make_secrets.py [FOLDER]`.

Needs nothing but Python. What is there stays: a password that a database already has would only be
forgotten. To change one, delete its file and say so to the service that knows it.
"""  # noqa: INP001 - a script, not a module of a package

import base64
import hashlib
import json
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"
USER = "veltrix"
# RabbitMQ's users, with their tags for the management API; what each may do is said in
# deploy/rabbitmq/rights.json. `operator` is for people: no process has its password.
BROKER_USERS = {
    "api": "",
    "relay": "policymaker",
    "worker": "",
    "flower": "management",
    "doctor": "monitoring,policymaker",
    "operator": "monitoring,policymaker",
}


def make_secrets(folder: Path) -> list[str]:
    """Write the files that are missing in `folder`; their names.

    The folder is its owner's alone. The files are readable to all, because compose mounts them as
    they are and each container has a user of its own.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    made: list[str] = []

    def keep(name: str, text: str) -> str:
        path = folder / name
        if not path.exists():
            path.write_text(text)
            path.chmod(0o444)
            made.append(name)
        return path.read_text()

    keep("postgres_password", secrets.token_urlsafe(32))
    # Of the roles in postgres/roles.sql: the platform's URL is the one without a name of its own.
    for role, name in (("owner", "owner_"), ("app", ""), ("read", "read_")):
        password = keep(f"database_{role}_password", secrets.token_urlsafe(32))
        url = f"postgresql+psycopg://{USER}_{role}:{password}@postgres/{USER}"
        keep(f"database_{name}url", url)
    broker: dict[str, str] = {}
    for role, tags in BROKER_USERS.items():
        password = keep(f"rabbitmq_password_{role}", secrets.token_urlsafe(32))
        account = f"{USER}-{role}:{password}"
        if role != "operator":
            keep(f"{role}_broker_url", f"amqp://{account}@rabbitmq/%2F")
        if tags:
            keep(f"{role}_management_url", f"http://{account}@rabbitmq:15672")
        broker[role] = password
    keep("rabbitmq_accounts.json", json.dumps(rabbitmq_users(broker), indent=2))
    keep("admin_key", secrets.token_hex(32))
    keep("doctor_key", secrets.token_hex(32))
    keep("flower_basic_auth", f"{USER}:{secrets.token_urlsafe(32)}")
    return made


def rabbitmq_users(passwords: dict[str, str]) -> dict[str, object]:
    """A definitions file with the users; what they may do is in another.

    The hash is RabbitMQ's: four bytes of salt, then SHA-256 of the salt and the password.
    """
    return {
        "users": [
            {
                "name": f"{USER}-{role}",
                "password_hash": _hash(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": BROKER_USERS[role],
            }
            for role, password in passwords.items()
        ]
    }


def _hash(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    names = make_secrets(target)
    sys.stdout.write(f"{target}: {', '.join(names) if names else 'nothing was missing'}\n")
