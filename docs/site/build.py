"""Build the docs site from the Markdown of this repository: `make docs`, or run the notebooks.

Nothing is fetched. The tools and Swagger UI have been installed before, by the Makefile.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from stingy_site.explorer import explorer_page
from stingy_site.grpc_reference import grpc_page, proto
from stingy_site.http_reference import export, http_page, swagger_page, swagger_script
from stingy_site.notebooks import run_notebook, write_page
from stingy_site.python_reference import PACKAGES, python_page
from stingy_site.staging import ROOT, Page, Section, folder_page, navigation, stage, staged_name

HERE = Path(__file__).parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "LICENSE", "NOTICE")
REFERENCE = Section(
    "Reference",
    (
        Page("Policy explorer", "explorer"),
        Page("HTTP API", "reference/http"),
        Page("gRPC service", "reference/grpc"),
        *(Page(f"Python: {title}", f"reference/{name}") for name, title in PACKAGES.items()),
    ),
)


def run_notebooks(work: Path) -> None:
    """Run the notebooks that changed since they ran last."""
    for source in NOTEBOOKS:
        target = work / "notebooks" / source.name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            print(f"running {source.relative_to(ROOT)}", flush=True)  # noqa: T201
            run_notebook(source, target)


def write_sources(work: Path) -> list[PurePosixPath]:
    """Write all sources of the site to WORK/source. Return the other files that pages link to."""
    source = work / "source"
    shutil.rmtree(source, ignore_errors=True)
    files = stage(source, sections=[*navigation(), REFERENCE])
    for notebook in NOTEBOOKS:
        write_page(work / "notebooks" / notebook.name, source / "notebooks" / f"{notebook.stem}.md")
    document = export()
    pages = {
        "explorer": explorer_page(ROOT / "attacker_eval" / "results"),
        "examples": folder_page(ROOT / "examples"),
        "reference/http": http_page(document),
        "reference/grpc": grpc_page(),
        **{f"reference/{package}": python_page(package) for package in PACKAGES},
    }
    for name, text in pages.items():
        path = source / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    extra = work / "extra"
    shutil.rmtree(extra, ignore_errors=True)
    (extra / "reference").mkdir(parents=True)
    (extra / "reference" / "openapi.json").write_text(json.dumps(document, indent=1))
    (extra / "reference" / "open_inference.proto").write_text(proto())
    swagger = extra / "swagger"
    swagger.mkdir()
    for name in SWAGGER_FILES:
        shutil.copy(work / "swagger-ui" / name, swagger / name)
    (swagger / "index.html").write_text(swagger_page())
    (swagger / "openapi.js").write_text(swagger_script(document))
    return files


def copy_files(work: Path, files: list[PurePosixPath]) -> None:
    """Copy the files that pages link to beside the pages."""
    for name in files:
        target = work / "extra" / staged_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the docs site, or run the notebooks.")
    parser.add_argument("what", choices=["notebooks", "site"])
    parser.add_argument("--work", type=Path, default=ROOT / ".docs")
    args = parser.parse_args()
    run_notebooks(args.work)
    if args.what == "notebooks":
        return
    copy_files(args.work, write_sources(args.work))
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    command += ["-c", str(HERE), "-d", str(args.work / "doctrees")]
    done = subprocess.run([*command, args.work / "source", args.work / "site"], check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)
    print(f"the site is {args.work / 'site' / 'index.html'}")  # noqa: T201


if __name__ == "__main__":
    main()
