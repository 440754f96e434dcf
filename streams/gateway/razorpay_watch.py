"""Whether Razorpay still reaches us, and is answered well: what the alarms look at that have to come long before it disables the webhook.

Razorpay takes any answer but a 2xx, and none within 5 s, as a failure, and disables a webhook that fails for 24 hours.
Source: Razorpay documentation, "Webhooks: best practices".
"""

from collections.abc import Callable

from streams.metrics import RAZORPAY_FAILING_SINCE, RAZORPAY_FAILURES_IN_A_ROW, RAZORPAY_LAST_WEBHOOK


class RazorpayWatch:
    """Notes signed webhooks and answers. A few assignments a request; the metrics read them when they are asked for.

    Times are Unix seconds of ``clock``. A gateway that has just started takes its start for the last webhook, or each restart would look
    like silence since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.last_signed = clock()
        self.failing_since = 0.0
        self.failures = 0
        RAZORPAY_LAST_WEBHOOK.set_function(lambda: self.last_signed)
        RAZORPAY_FAILING_SINCE.set_function(lambda: self.failing_since)
        RAZORPAY_FAILURES_IN_A_ROW.set_function(lambda: self.failures)

    def signed(self, now: float) -> None:
        """Note a delivery whose signature fits."""
        self.last_signed = now

    def accepted(self) -> None:
        """Note a 2xx, which ends a run of failures."""
        self.failures, self.failing_since = 0, 0.0

    def failed(self) -> None:
        """Note a delivery that got no 2xx, or gave up."""
        if not self.failures:
            self.failing_since = self._clock()
        self.failures += 1
