"""A record as the stages read it, and as every reader of a topic hands it on."""

from typing import TypeAlias

from aiokafka import ConsumerRecord

Record: TypeAlias = ConsumerRecord[bytes | None, bytes | None]
