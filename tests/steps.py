"""Reading what a stage made of a record, as the readers of its topics do."""

from agents.normalise.rows import unpack
from schemas.audit import AuditData
from schemas.envelope import Envelope
from schemas.team_events import MAX_SECONDS, SubscriptionFact
from streams.engine.table_stage import Step
from streams.engine.transactions import Output


def only(step: Step) -> Output:
    """The one record that the step produces."""
    (output,) = step.outputs
    return output


def value_of(output: Output) -> bytes:
    assert output.value is not None
    return output.value


def fact_in(step: Step) -> Envelope[SubscriptionFact]:
    return Envelope[SubscriptionFact].model_validate_json(value_of(only(step)))


def audit_in(output: Output) -> Envelope[AuditData]:
    return Envelope[AuditData].model_validate_json(value_of(output))


def facts_of(step: Step) -> list[Envelope[SubscriptionFact]]:
    """All that the step produces, which is facts."""
    return [Envelope[SubscriptionFact].model_validate_json(value_of(output)) for output in step.outputs]


def owner(step: Step) -> str | None:
    """Whose the subscription is by the row that the step keeps."""
    assert step.row is not None
    return unpack(step.row).ownership.team_at((MAX_SECONDS, 0, 0, ""))
