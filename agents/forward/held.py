"""The mails that wait by themselves while others go on: for the log, the metrics and ``/readyz``."""

import uuid
from collections import Counter
from dataclasses import dataclass

import structlog

from schemas.kinds import Kind
from streams.metrics import HELD

_NAMED = 5
"""So many groups of them are named in a description."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeldMail:
    """Of which event it is, and Loops' last answer to it, in a few words."""

    kind: Kind
    answer: str


class HeldMails:
    """The mails of one process that wait by themselves."""

    def __init__(self) -> None:
        self._mails: dict[uuid.UUID, HeldMail] = {}

    def hold(self, audit_id: uuid.UUID, kind: Kind, answer: str) -> None:
        """Note that a mail waits. Says so in the log, again when the answer is another one."""
        mail = HeldMail(kind, answer)
        if self._mails.get(audit_id) == mail:
            return
        self._forget(audit_id)
        self._mails[audit_id] = mail
        HELD.labels(kind.value, answer).inc()
        _log.warning(
            "mail_held", audit_id=str(audit_id), kind=kind.value, answer=answer, effect="its team's mails wait behind it, others go on"
        )

    def release(self, audit_id: uuid.UUID, outcome: str | None) -> None:
        """Note that a mail waits no more; ``outcome`` is None when it is given up to be read again."""
        if self._forget(audit_id) is not None:
            _log.info("mail_released", audit_id=str(audit_id), outcome=outcome or "given up to be read again")

    def describe(self) -> str:
        """Say how many mails wait by themselves, of which events and for which answers; nothing when there are none."""
        if not self._mails:
            return ""
        groups = Counter(f"{mail.kind.value} ({mail.answer})" for mail in self._mails.values()).most_common()
        named = ", ".join(f"{count} of {group}" for group, count in groups[:_NAMED])
        return f"mails that wait by themselves while others go on: {named}{', and others' if len(groups) > _NAMED else ''}"

    def _forget(self, audit_id: uuid.UUID) -> HeldMail | None:
        mail = self._mails.pop(audit_id, None)
        if mail is not None:
            HELD.labels(mail.kind.value, mail.answer).dec()
        return mail
