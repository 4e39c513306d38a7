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
    broker = keep("rabbitmq_password", secrets.token_urlsafe(32))
    keep("broker_url", f"amqp://{USER}:{broker}@rabbitmq/%2F")
    keep("management_url", f"http://{USER}:{broker}@rabbitmq:15672")
    keep("rabbitmq_users.json", json.dumps(rabbitmq_users(broker), indent=2))
    keep("admin_key", secrets.token_hex(32))
    keep("flower_basic_auth", f"{USER}:{secrets.token_urlsafe(32)}")
    return made


def rabbitmq_users(password: str) -> dict[str, object]:
    """A definitions file with our user, who may do everything in the virtual host `/`.

    The hash is RabbitMQ's: four bytes of salt, then SHA-256 of the salt and the password.
    """
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "users": [
            {
                "name": USER,
                "password_hash": base64.b64encode(salt + digest).decode(),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "administrator",
            }
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [
            {"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        ],
    }


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    names = make_secrets(target)
    sys.stdout.write(f"{target}: {', '.join(names) if names else 'nothing was missing'}\n")
