"""The heads of the ledger's chains in the log, once a day and when the server stops.

Whoever may write the store can rebuild a chain. A log that is kept elsewhere shows it.
"""

import asyncio
import json
import logging

from stingy_server.store.base import StoreUnavailable
from stingy_server.store.group_commit import StoreExecutor
from stingy_server.store.ledger import Ledger

log = logging.getLogger("stingy.ledger")

EVERY_S = 86_400.0


class HeadLog:
    """The log of the heads, of all chains that have grown since the last lines of this process.

    Raises:
        StoreUnavailable: the heads cannot be read.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._logged = set(ledger.heads())

    async def run(self, executor: StoreExecutor) -> None:
        """Log once a day until the task is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await executor.run(self.write)
            except StoreUnavailable as error:
                log.error("cannot read the heads of the ledger: %s", error)

    def write(self) -> None:
        """Log the heads that are not in the log yet.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        heads = self._ledger.heads()
        for head in heads:
            if head not in self._logged:
                log.info("head of the ledger: %s", json.dumps(head.fields()))
        self._logged = set(heads)
