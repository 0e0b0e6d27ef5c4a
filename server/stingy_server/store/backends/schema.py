"""The tables, in the SQL of SQLite. `postgres` replaces the names of types.

A released version is never changed. Each later version is a script in `MIGRATIONS`.
"""

FIRST_VERSION = 3  # the schema of release 0.1.0

SCHEMA = """
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

-- One row for each owner: a key ("key:ID"), a model ("model:NAME"), or a key and a model
-- ("key:ID:NAME"). NULL is no limit.
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

-- One row for each key that got answers; see key_profiles.py.
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

-- The versions to serve beside those of the settings, and the reports of each process; see
-- deployments.py.
CREATE TABLE deployments (
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    settings TEXT NOT NULL,
    bundle   TEXT,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE serving (
    process  TEXT NOT NULL,
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    policy   TEXT NOT NULL,
    share    REAL,
    fault    TEXT,
    seen     REAL NOT NULL,
    warnings TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (process, name, version)
) STRICT;
"""

# The script from each version to the next, from `FIRST_VERSION` on.
MIGRATIONS: tuple[str, ...] = (
    # 4
    """
-- In requests, such as "100/second"; NULL is the rate of the settings.
ALTER TABLE keys ADD COLUMN request_rate TEXT;
-- The requests of an entry.
ALTER TABLE ledger ADD COLUMN requests INTEGER NOT NULL DEFAULT 1;
-- Budgets of a month of UTC, counted in months since January 1970.
ALTER TABLE budgets ADD COLUMN month_total INTEGER;
ALTER TABLE budgets ADD COLUMN month INTEGER NOT NULL DEFAULT 0;
ALTER TABLE budgets ADD COLUMN month_used INTEGER NOT NULL DEFAULT 0 CHECK (month_used >= 0);
-- Counts the changes of keys: a process looks up the keys anew that it knows, if this has changed.
CREATE TABLE key_changes (count INTEGER NOT NULL) STRICT;
INSERT INTO key_changes VALUES (0);
-- A deployment may be allowed to be looser than what is in service.
ALTER TABLE deployments ADD COLUMN looser INTEGER NOT NULL DEFAULT 0;
-- The most images that are charged without a look at a limit; 0 is not computed. See budgets.py.
ALTER TABLE budgets ADD COLUMN stop INTEGER NOT NULL DEFAULT 0;
ALTER TABLE budgets ADD COLUMN day_stop INTEGER NOT NULL DEFAULT 0;
ALTER TABLE budgets ADD COLUMN month_stop INTEGER NOT NULL DEFAULT 0;
-- The names of the models that a key may query, with spaces between; NULL is all.
ALTER TABLE keys ADD COLUMN models TEXT;
-- The names of the models for which a key has a budget of its own, with spaces between.
ALTER TABLE keys ADD COLUMN model_budgets TEXT NOT NULL DEFAULT '';
-- The policy of a report, as it was written.
ALTER TABLE serving ADD COLUMN written TEXT NOT NULL DEFAULT '';
-- The fingerprint of the policy of a report.
ALTER TABLE serving ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
-- More about an event of a budget or of an operator, as JSON.
ALTER TABLE ledger ADD COLUMN detail TEXT;
-- The chains of the ledger, and the head of each; see ledger.py. Older entries are in no chain.
ALTER TABLE ledger ADD COLUMN writer TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN hash BLOB;
CREATE TABLE ledger_heads (
    writer TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    hash   BLOB NOT NULL
) STRICT;
-- Marked inputs and controls, encrypted; see mark_store.py. They are in the order of random ids,
-- because the order of their arrival would show which entry of the ledger is whose.
CREATE TABLE marks (
    id    BLOB PRIMARY KEY,
    day   INTEGER NOT NULL,
    owner BLOB NOT NULL,
    input BLOB NOT NULL UNIQUE,
    body  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX marks_owner ON marks (owner);
-- One row: the digest that commits to the secret of the marks.
CREATE TABLE marks_secret (commitment BLOB NOT NULL) STRICT;
""",
)
VERSION = FIRST_VERSION + len(MIGRATIONS)
