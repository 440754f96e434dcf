"""Validation errors as one sentence for an operator."""

from pydantic import ValidationError


def describe(error: ValidationError) -> str:
    """Return one sentence that names each wrong field, and never its value (it may be an address)."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return (
        "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults[:5])
        + "."
    )
