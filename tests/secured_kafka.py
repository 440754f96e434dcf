"""A Kafka that takes clients over TLS and SCRAM-SHA-512 alone, and allows what an ACL allows and nothing else.

Its plain listener is the administrator's: whoever connects there is the superuser, and makes users and ACLs. Nothing of what is tested
does.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from streams.embedded.kafka import EmbeddedKafka
from streams.kafka.acls import Acl
from streams.settings import Settings, load_settings
from tests.certificates import Authority
from tests.waiting import blocked_until

LISTENER = "CLIENTS"
MECHANISM = "SCRAM-SHA-512"
PARTITIONS = 4

_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "Create": AclOperation.CREATE,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}
_RESOURCES = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "transactional-id": ResourceType.TRANSACTIONAL_ID}
_SECONDS = 30.0


class SecuredKafka:
    """The running broker. Users have a password each; ``settings`` logs in as one of them."""

    def __init__(self, kafka: EmbeddedKafka, authority: Authority) -> None:
        self._admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        self.address = kafka.address(LISTENER)
        self.authority = authority
        self.prefix = f"t{secrets.token_hex(4)}."
        self.passwords: dict[str, str] = {}

    def settings(self, user: str, **changes: Any) -> Settings:
        """Settings with the login of ``user``."""
        login = {
            "kafka_bootstrap_servers": self.address,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": MECHANISM,
            "kafka_sasl_username": user,
            "kafka_sasl_password": SecretStr(self.passwords[user]),
            "kafka_ssl_cafile": self.authority.certificate,
        }
        ours = {"topic_prefix": self.prefix, "partitions": PARTITIONS, "replication_factor": 1, "admin_port": 0}
        return load_settings(**{**login, **ours, **changes})

    def add_user(self, name: str) -> None:
        """Create a user who may do nothing yet. Blocking."""
        self.passwords[name] = password = f"S3cret-{secrets.token_hex(12)}"
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        for future in self._admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(name, credential, password.encode())]
        ).values():
            future.result(_SECONDS)
        blocked_until(lambda: self._has_user(name), seconds=_SECONDS)

    def grant(self, user: str, granted: Iterable[Acl]) -> None:
        """Give ``user`` these ACLs, and return once the broker has them. Blocking."""
        bindings = list(dict.fromkeys(binding for acl in granted for binding in _bindings(user, acl)))
        for future in self._admin.create_acls(bindings).values():
            future.result(_SECONDS)
        blocked_until(lambda: set(bindings) <= self._acls(), seconds=_SECONDS)

    def revoke(self, user: str, acl: Acl) -> None:
        """Take an ACL from ``user``, and return once the broker has it no more. Blocking."""
        bindings = _bindings(user, acl)
        filters = [
            AclBindingFilter(
                each.restype, each.name, each.resource_pattern_type, each.principal, each.host, each.operation, each.permission_type
            )
            for each in bindings
        ]
        for future in self._admin.delete_acls(filters).values():
            future.result(_SECONDS)
        blocked_until(lambda: not set(bindings) & self._acls(), seconds=_SECONDS)

    def _has_user(self, name: str) -> bool:
        described = self._admin.describe_user_scram_credentials([name])
        assert isinstance(described, dict)  # for names are given
        try:
            return bool(described[name].result(_SECONDS).scram_credential_infos)
        except KafkaException:
            return False  # the broker does not know of it yet

    def _acls(self) -> set[AclBinding]:
        everything = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]  # the annotations forget that it means any
            ResourcePatternType.ANY,
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        return set(self._admin.describe_acls(everything).result(_SECONDS))


def _bindings(user: str, acl: Acl) -> list[AclBinding]:
    pattern = ResourcePatternType.PREFIXED if acl.is_prefix else ResourcePatternType.LITERAL
    return [
        AclBinding(_RESOURCES[acl.resource], acl.name, pattern, f"User:{user}", "*", _OPERATIONS[operation], AclPermissionType.ALLOW)
        for operation in acl.operations
    ]


@asynccontextmanager
async def secured_kafka(directory: Path) -> AsyncIterator[SecuredKafka]:
    """Run such a broker. Skips where no certificate can be made."""
    authority = Authority(directory / "authority")
    store = authority.issue("IP:127.0.0.1").in_one_file()
    prefix = f"listener.name.{LISTENER.lower()}"
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",
        f"{prefix}.sasl.enabled.mechanisms": MECHANISM,
        f"{prefix}.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        f"{prefix}.ssl.keystore.type": "PEM",
        f"{prefix}.ssl.keystore.location": str(store),
    }
    kafka = EmbeddedKafka(directory / "kafka", properties=properties, listeners={LISTENER: "SASL_SSL"})
    await kafka.start()
    try:
        yield await asyncio.to_thread(SecuredKafka, kafka, authority)
    finally:
        await kafka.stop()
