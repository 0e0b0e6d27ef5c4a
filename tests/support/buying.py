"""A transfer set of digits, bought as any customer would, for comparing engines byte for byte."""

from pathlib import Path

import numpy as np

from stingy_attacker_eval.data import load_dataset
from stingy_attacker_eval.oracle import HttpOracle
from stingy_attacker_eval.transfer import buy
from stingy_clients import Client

COUNT = 100


def bought_digits(url: str, key: str, folder: Path) -> dict[str, bytes]:
    """The files of a transfer set of `COUNT` digits; one image more is charged."""
    images = load_dataset("digits").test_x[:COUNT]
    with Client(url, key) as client:
        oracle = HttpOracle(client, model="digits")
        transfer = buy(oracle, images, budget=COUNT, folder=folder)
        assert len(transfer.answers) == transfer.charged == COUNT
        alone = oracle.ask(images[:1])  # a request of one is another shape of batch
        assert np.array_equal(alone.indices, transfer.answers.indices[:1])
    files = [*sorted(folder.glob("*.npz")), folder / "meta.json"]
    assert len(files) == 3
    return {file.name: file.read_bytes() for file in files}
