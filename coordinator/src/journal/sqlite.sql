-- What happened, and the only truth: the rest follows from it.
CREATE TABLE batches (
    first INTEGER PRIMARY KEY, -- number of the first event; they count from 1
    last INTEGER NOT NULL,     -- number of the last
    at_ms INTEGER NOT NULL,    -- since 1970, when they were decided
    events TEXT NOT NULL,      -- JSON array of domain::runner::event::Event
    digest BLOB NOT NULL       -- blake3 of the above
) STRICT;
CREATE TABLE snapshots (
    number INTEGER PRIMARY KEY, -- of the last event in it
    packed BLOB NOT NULL,       -- the scheduler's state, compressed by zstd
    digest BLOB NOT NULL        -- blake3 of the above
) STRICT;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    run TEXT NOT NULL UNIQUE, -- digest of the plan
    submitted_ms INTEGER NOT NULL,
    scale TEXT NOT NULL,
    cancelled_ms INTEGER
) STRICT;
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,
    task TEXT NOT NULL UNIQUE, -- the key
    stage TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL, -- open, succeeded, failed, cancelled, pruned
    code TEXT,           -- why it failed
    message TEXT,
    artifact TEXT,       -- the result
    attempts INTEGER NOT NULL, -- counted when it ends
    failures INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    ended_ms INTEGER
) STRICT;
CREATE TABLE run_tasks (
    run INTEGER NOT NULL,  -- runs.number
    task INTEGER NOT NULL, -- tasks.number
    PRIMARY KEY (run, task)
) STRICT, WITHOUT ROWID;
CREATE TABLE attempts (
    token INTEGER PRIMARY KEY,
    task INTEGER NOT NULL, -- tasks.number
    attempt INTEGER NOT NULL,
    worker TEXT NOT NULL,
    granted INTEGER NOT NULL, -- number of the event
    granted_ms INTEGER NOT NULL,
    ended INTEGER, -- number of the event
    ended_ms INTEGER,
    outcome TEXT, -- succeeded, failed, retrying, lost, preempted, cancelled, pruned
    code TEXT,
    message TEXT
) STRICT;
CREATE INDEX attempts_task ON attempts (task);
CREATE INDEX attempts_granted ON attempts (granted);
CREATE INDEX attempts_ended ON attempts (ended) WHERE ended IS NOT NULL;
CREATE VIEW progress AS
    SELECT run, submitted_ms, scale, cancelled_ms, COUNT(*) AS tasks,
        SUM(state = 'succeeded') AS succeeded, SUM(state = 'failed') AS failed,
        SUM(state = 'cancelled') AS cancelled, SUM(state = 'open') AS open,
        MAX(ended_ms) AS ended_ms
    FROM (SELECT r.*, t.state, t.ended_ms FROM runs r JOIN run_tasks l ON l.run = r.number JOIN tasks t ON t.number = l.task)
    GROUP BY run, submitted_ms, scale, cancelled_ms;
