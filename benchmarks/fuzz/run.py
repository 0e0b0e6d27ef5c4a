"""Row H8: fuzz the server for a long time, until an input is not refused as promised.

    python benchmarks/fuzz/run.py oip --minutes 10      headers and tensors of the protocol
    python benchmarks/fuzz/run.py image --minutes 10    JPEG and PNG
    python benchmarks/fuzz/run.py api --minutes 10      a live server, by its OpenAPI document
    python benchmarks/fuzz/run.py budgets --minutes 10  charges, refunds, restarts in any order

`oip` and `image` need atheris, `api` needs schemathesis: `pip install -e '.[dev,fuzz]'`. `oip` and
`image` write their findings and their corpus to the folder given with --out.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

SLOW_S = 5  # an input that takes this long is a finding
MOST_BYTES = 4096
MOST_MB = 4096


def parsers(target: str, *, seconds: float, runs: int, out: Path) -> None:
    """Start libFuzzer, which ends the process, with status 0 if it found nothing."""
    import atheris

    with atheris.instrument_imports(include=["stingy_server.codec", "PIL"]):
        import fuzzing

    check, seeds = {
        "oip": (fuzzing.check_oip, fuzzing.oip_seeds()),
        "image": (fuzzing.check_image, fuzzing.image_seeds()),
    }[target]
    corpus = out / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    options = [
        f"-max_total_time={round(seconds)}",
        f"-timeout={SLOW_S}",
        f"-max_len={MOST_BYTES}",
        f"-rss_limit_mb={MOST_MB}",
        f"-artifact_prefix={out}/",
        "-seed=1",
        *([f"-runs={runs}"] if runs else []),
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


def api(*, seconds: float) -> None:
    """Send rounds of requests to a server, which must survive and log no traceback."""
    from fuzzing import check_api
    from serving import make_bundle, make_key, make_settings, served
    from stingy_server import create_app

    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        bundle = make_bundle(Path(folder) / "bundle")
        app = create_app(make_settings(state, bundle))
        document = app.openapi()
        app.state.service.database.close()
        key = make_key(state)
        with served(bundle, state=state) as (url, process):
            requests = 0

            def run_round() -> None:
                nonlocal requests
                requests += check_api(document, url, key, examples=100, fresh=True)

            until(seconds, run_round)
            assert process.poll() is None  # noqa: S101
            process.terminate()
            assert process.stderr is not None  # noqa: S101
            assert "Traceback" not in process.stderr.read()  # noqa: S101
        print(f"{requests} requests answered or refused as they should be")  # noqa: T201


def budgets(*, seconds: float) -> None:
    """Charge, refund and restart in any order on one SQLite state."""
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    from budget_machine import BudgetMachine

    options = settings(deadline=None, max_examples=100, stateful_step_count=50, database=None)
    with tempfile.TemporaryDirectory() as folder:
        until(
            seconds,
            lambda: run_state_machine_as_test(
                lambda: BudgetMachine(Path(folder) / "state", None), settings=options
            ),
        )


def until(seconds: float, work: Callable[[], None]) -> None:
    """Repeat `work` until `seconds` are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the server (row H8).")
    parser.add_argument("target", choices=["oip", "image", "api", "budgets"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=0, help="inputs of oip and image; 0: no limit")
    parser.add_argument("--out", type=Path, default=Path.home() / ".cache" / "stingy-fuzz")
    args = parser.parse_args()
    seconds = 60 * args.minutes
    if args.target == "api":
        api(seconds=seconds)
    elif args.target == "budgets":
        budgets(seconds=seconds)
    else:
        parsers(args.target, seconds=seconds, runs=args.runs, out=args.out)


if __name__ == "__main__":
    main()
