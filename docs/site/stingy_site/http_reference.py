"""The page of the HTTP API, from the OpenAPI document of the application itself."""

import json
import re
from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]


def export() -> Document:
    """Return the OpenAPI document of the server, without a model, a key or a state."""
    from fastapi import FastAPI

    from stingy_server.edge import oip_routes, routes, torchserve_routes
    from stingy_server.edge.descriptions import server_metadata
    from stingy_server.edge.guard import PROBES
    from stingy_server.edge.openapi import DESCRIPTION, complete

    app = FastAPI(title="Stingy", version=server_metadata()["version"], description=DESCRIPTION)
    for router in (routes.router, oip_routes.router, torchserve_routes.router):
        app.include_router(router)
    document = app.openapi()
    complete(document, without_key=PROBES)
    return document


def http_page(document: Document) -> str:
    """Write the page: a table of the routes, each route, and each schema with its fields."""
    parts = [
        "# HTTP API",
        document["info"]["description"],
        "This page is drawn from the server's own OpenAPI document: "
        '<a href="openapi.json">openapi.json</a>, or <a href="../swagger/index.html">in Swagger '
        "UI</a>. The server itself serves neither. [Query an endpoint](../query.md) explains the "
        "routes, and has the table of errors.",
        "## All routes",
        _table(
            ("route", "answers", "key"),
            (
                (
                    f"[`{method} {path}`](#{_anchor(method, path)})",
                    _schemas(operation["responses"]["200"]),
                    "needed" if operation["security"] else "none",
                )
                for method, path, operation in _operations(document)
            ),
        ),
    ]
    tag = ""
    for method, path, operation in _operations(document):
        if operation["tags"][0] != tag:
            tag = operation["tags"][0]
            parts.append(f"## {tag}")
        parts += _operation(method, path, operation)
    parts.append("## Schemas")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n\n".join(parts) + "\n"


def swagger_page() -> str:
    """Write the page of Swagger UI. It sends no request, and nothing can be tried on it."""
    return """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stingy: HTTP API</title>
<link rel="stylesheet" href="swagger-ui.css">
<link rel="icon" href="data:,">
<style>.swagger-ui .scheme-container { display: none; }</style>
</head>
<body>
<nav>
<p style="margin:1rem 1.5rem;font-family:sans-serif"><a href="../reference/http.html">Back to the
documentation</a></p>
</nav>
<div id="swagger"></div>
<script src="swagger-ui-bundle.js"></script>
<script src="openapi.js"></script>
<script>
SwaggerUIBundle({
  spec: OPENAPI, dom_id: "#swagger", supportedSubmitMethods: [], validatorUrl: null,
  docExpansion: "list", deepLinking: true, defaultModelsExpandDepth: 0,
});
</script>
</body>
</html>
"""


def swagger_script(document: Document) -> str:
    """Write the document as a script, because a page from a file may fetch no other file."""
    return f"const OPENAPI = {json.dumps(document)};\n"


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method in sorted(methods):
            yield method.upper(), path, methods[method]


def _operation(method: str, path: str, operation: Document) -> list[str]:
    parts = [f"({_anchor(method, path)})=", f"### `{method} {path}`", operation["description"]]
    rows = [
        (f"`{parameter['name']}`", "in the path", "text")
        for parameter in operation.get("parameters", ())
    ]
    if body := operation.get("requestBody"):
        rows.append(("body", _types(body), _schemas(body)))
    for status, response in operation["responses"].items():
        label = "any other status" if status == "default" else status
        rows.append((label, _types(response) or "no body", _schemas(response)))
    parts.append(_table(("part", "type", "content"), rows))
    return parts


def _schema(name: str, schema: Document) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (f"`{field}`", _kind(of), "yes" if field in required else "no", of.get("description", ""))
        for field, of in schema.get("properties", {}).items()
    ]
    described = _as_markdown(schema.get("description", ""))
    parts = [f"(schema-{name.lower()})=", f"### `{name}`", described]
    return [*parts, _table(("field", "type", "required", "meaning"), rows)] if rows else parts


def _as_markdown(docstring: str) -> str:
    """Return the first paragraph of a docstring; its sections are of Python."""
    paragraph = re.split(r"\n\s*\n|\n\s*(?:Args|Attributes):", docstring)[0]
    return " ".join(paragraph.split())


def _types(part: Document) -> str:
    return ", ".join(f"`{media_type}`" for media_type in part.get("content", {}))


def _schemas(part: Document) -> str:
    kinds = dict.fromkeys(_kind(each["schema"]) for each in part.get("content", {}).values())
    return ", ".join(kinds) or "nothing"


def _kind(schema: Document) -> str:
    """Write the type of a value in words, with links to the schemas that it names."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#schema-{name.lower()})"
    if choices := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(map(_kind, choices)))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("format") == "binary":
        return "bytes"
    match schema.get("type"):
        case "array":
            items = schema.get("items") or next(iter(schema.get("prefixItems", [{}])))
            return f"list of {_kind(items)}"
        case "object":
            more = schema.get("additionalProperties")
            if isinstance(more, dict):
                return f"object of {_kind(more)}"
            fields = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
            return f"form with {fields}" if fields else "object"
        case "string":
            return "text"
        case None:
            return "any"
        case kind:
            return str(kind)


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-") + (
        "-root" if path.endswith("/") else ""
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )
