-- The form of the journal. One row.
CREATE TABLE journal (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    form BIGINT NOT NULL
);
-- Which coordinator leads. One row, once anybody has led.
CREATE TABLE leader (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    term BIGINT NOT NULL,        -- grows with every leader
    address TEXT NOT NULL,       -- where it serves
    expires TIMESTAMPTZ NOT NULL -- by this server's clock
);
-- What happened, and the only truth: the rest follows from it.
CREATE TABLE batches (
    first BIGINT PRIMARY KEY, -- number of the first event; they count from 1
    last BIGINT NOT NULL,     -- number of the last
    at_ms BIGINT NOT NULL,    -- since 1970, when they were decided
    events TEXT NOT NULL,     -- JSON array of domain::runner::event::Event
    digest BYTEA NOT NULL     -- blake3 of the above
);
CREATE INDEX batches_last ON batches (last);
CREATE TABLE snapshots (
    number BIGINT PRIMARY KEY, -- of the last event in it
    packed BYTEA NOT NULL,     -- the scheduler's state, compressed by zstd
    digest BYTEA NOT NULL      -- blake3 of the above
);
CREATE TABLE runs (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run TEXT NOT NULL UNIQUE, -- digest of the plan
    submitted_ms BIGINT NOT NULL,
    scale TEXT NOT NULL,
    cancelled_ms BIGINT
);
CREATE TABLE tasks (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task TEXT NOT NULL UNIQUE, -- the key
    stage TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL, -- open, succeeded, failed, cancelled, pruned
    code TEXT,           -- why it failed
    message TEXT,
    artifact TEXT,       -- the result
    attempts BIGINT NOT NULL, -- counted when it ends
    failures BIGINT NOT NULL,
    losses BIGINT NOT NULL,
    ended_ms BIGINT
);
CREATE TABLE run_tasks (
    run BIGINT NOT NULL,  -- runs.number
    task BIGINT NOT NULL, -- tasks.number
    PRIMARY KEY (run, task)
);
CREATE TABLE attempts (
    token BIGINT PRIMARY KEY,
    task BIGINT NOT NULL, -- tasks.number
    attempt BIGINT NOT NULL,
    worker TEXT NOT NULL,
    granted BIGINT NOT NULL, -- number of the event
    granted_ms BIGINT NOT NULL,
    ended BIGINT, -- number of the event
    ended_ms BIGINT,
    outcome TEXT, -- succeeded, failed, retrying, lost, preempted, cancelled, pruned
    code TEXT,
    message TEXT
);
CREATE INDEX attempts_task ON attempts (task);
CREATE INDEX attempts_granted ON attempts (granted);
CREATE INDEX attempts_ended ON attempts (ended) WHERE ended IS NOT NULL;
CREATE VIEW progress AS
    SELECT r.run, r.submitted_ms, r.scale, r.cancelled_ms, COUNT(*) AS tasks,
        COUNT(*) FILTER (WHERE t.state = 'succeeded') AS succeeded, COUNT(*) FILTER (WHERE t.state = 'failed') AS failed,
        COUNT(*) FILTER (WHERE t.state = 'cancelled') AS cancelled, COUNT(*) FILTER (WHERE t.state = 'open') AS open,
        MAX(t.ended_ms) AS ended_ms
    FROM runs r JOIN run_tasks l ON l.run = r.number JOIN tasks t ON t.number = l.task
    GROUP BY r.number;
