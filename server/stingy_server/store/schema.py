"""The tables, in SQL that SQLite takes as it is and `postgres` with other names of types.

A version that was released is never changed: what comes later is another version.
"""

# What each version of the schema adds to the one before.
SCHEMA_1 = """
CREATE TABLE keys (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    tier    TEXT NOT NULL,
    rate    TEXT,
    digest  BLOB NOT NULL UNIQUE,
    created TEXT NOT NULL,
    expires TEXT,
    revoked TEXT
) STRICT;

-- One row for each key ("key:ID") and each model ("model:NAME"); NULL is no limit.
CREATE TABLE budgets (
    owner     TEXT PRIMARY KEY,
    total     INTEGER,
    used      INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    day_total INTEGER,
    day       INTEGER NOT NULL DEFAULT 0,
    day_used  INTEGER NOT NULL DEFAULT 0 CHECK (day_used >= 0)
) STRICT;

CREATE TABLE ledger (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    time        TEXT NOT NULL,
    request     TEXT NOT NULL,
    key         TEXT NOT NULL,
    model       TEXT NOT NULL,
    version     TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    pixels      TEXT,
    images      INTEGER NOT NULL,
    answered    INTEGER NOT NULL,
    bits        REAL NOT NULL,
    status      INTEGER NOT NULL,
    event       TEXT NOT NULL,
    latency_us  INTEGER NOT NULL
) STRICT;

-- One row for each key that asked; see standings.py.
CREATE TABLE watch (
    key       TEXT PRIMARY KEY,
    updated   REAL NOT NULL,
    images    INTEGER NOT NULL,
    bits      REAL NOT NULL,
    novel     REAL NOT NULL,
    near      REAL NOT NULL,
    repeats   REAL NOT NULL,
    classes   TEXT NOT NULL,
    distances BLOB NOT NULL,
    coverage  REAL NOT NULL,
    normality REAL,
    burnt     REAL NOT NULL,
    score     REAL NOT NULL,
    step      TEXT NOT NULL,
    since     INTEGER NOT NULL
) STRICT;
"""

SCHEMA_2 = """
-- What is served beside the models of the settings, and what each process serves; see
-- deployments.py.
CREATE TABLE deployments (
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE serving (
    process TEXT NOT NULL,
    name    TEXT NOT NULL,
    version TEXT NOT NULL,
    policy  TEXT NOT NULL,
    share   REAL,
    fault   TEXT,
    seen    REAL NOT NULL,
    PRIMARY KEY (process, name, version)
) STRICT;
"""

SCHEMA_3 = """
-- Which bundle was meant, as `identity` tells them apart; what is to be said of a version.
ALTER TABLE deployments ADD COLUMN bundle TEXT;
ALTER TABLE serving ADD COLUMN warnings TEXT NOT NULL DEFAULT '';
"""

SCHEMAS = (SCHEMA_1, SCHEMA_2, SCHEMA_3)
