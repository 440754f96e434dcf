"""Mails over the restarts of a Loops that keeps them in memory."""

from deploy.rehearsal.mailbox import Mail, Mailbox


def mail(key: str) -> Mail:
    return {"idempotency_key": key, "email": f"{key}@example.com"}


def test_list_that_is_longer_than_before_adds_what_is_new() -> None:
    mailbox = Mailbox()

    mailbox.add([mail("a")])
    mailbox.add([mail("a"), mail("b")])

    assert mailbox.mails == [mail("a"), mail("b")]
    assert mailbox.ids == {"a", "b"}


def test_mail_that_one_list_has_twice_stays_doubled() -> None:
    mailbox = Mailbox()

    mailbox.add([mail("a"), mail("b"), mail("a")])
    mailbox.add([mail("a"), mail("b"), mail("a"), mail("c")])

    assert [found["idempotency_key"] for found in mailbox.mails] == ["a", "b", "a", "c"]


def test_mail_that_is_sent_again_after_a_restart_is_one_mail() -> None:
    mailbox = Mailbox()

    mailbox.add([mail("a"), mail("b")])
    mailbox.add([mail("b"), mail("c")])

    assert mailbox.mails == [mail("a"), mail("b"), mail("c")]
