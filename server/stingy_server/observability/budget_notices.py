"""The notices of budgets that are used to 80 or 95 %: a metric, and a POST to a webhook.

The ledger has an entry of each, written with the charge. A notice is lost if the process is killed
between that commit and the POST.
"""

import secrets
from collections.abc import Sequence

from stingy_server.observability.metrics import Metrics
from stingy_server.observability.webhook import Webhook
from stingy_server.store.budget import Crossing
from stingy_server.store.budgets import parts_of_owner
from stingy_server.store.key import Key
from stingy_server.times import stamp


class BudgetNotices:
    """The notices of one process.

    Args:
        metrics: the counter of the notices.
        webhook: the receiver of the notices, or None.
    """

    def __init__(self, metrics: Metrics, webhook: Webhook | None) -> None:
        self._metrics = metrics
        self._webhook = webhook

    def report(self, crossings: Sequence[Crossing], key: Key) -> None:
        """Report shares of limits that a charge has reached. This waits for nothing.

        Args:
            key: the key of the charge, whose name a notice of its own budgets has.
        """
        for crossing in crossings:
            kind, key_id, model = parts_of_owner(crossing.owner)
            self._metrics.count_notice(kind, crossing.period, crossing.percent)
            if self._webhook is not None:
                self._webhook.put(
                    {
                        "id": secrets.token_hex(8),
                        "event": f"budget_{crossing.percent}",
                        "time": stamp(),
                        "owner": crossing.owner,
                        "key": key_id,
                        "name": None if key_id is None else key.name,
                        "model": model,
                        "period": crossing.period,
                        "percent": crossing.percent,
                        "limit": crossing.limit,
                        "used": crossing.used,
                    }
                )

    def close(self) -> None:
        """Wait a moment for the POSTs in the queue."""
        if self._webhook is not None:
            self._webhook.close()
