-- What each process of a node serves. During an upgrade the old and the new process of one node are connected at the same time, and
-- a revision is served there only when both serve it.

CREATE TABLE node_processes (
    node_id         uuid NOT NULL REFERENCES nodes ON DELETE CASCADE,
    boot_id         uuid NOT NULL,
    is_connected    boolean NOT NULL DEFAULT true,
    served_epoch    uuid,
    served_revision bigint CHECK (served_revision >= 0),
    refusals        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(refusals) = 'array'),
    last_seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node_id, boot_id),
    CHECK ((served_epoch IS NULL) = (served_revision IS NULL))
);
COMMENT ON COLUMN node_processes.is_connected IS 'False once its stream has ended; the last process of a node is kept for what it served.';
COMMENT ON COLUMN node_processes.refusals IS 'What the process could not serve of its revision, with reasons.';

INSERT INTO node_processes (node_id, boot_id, is_connected, served_epoch, served_revision, refusals, last_seen_at)
SELECT id, boot_id, boot_id <> '00000000-0000-0000-0000-000000000000', served_epoch, served_revision, refusals, last_seen_at FROM nodes;

COMMENT ON COLUMN nodes.boot_id IS 'The process that said hello last.';
COMMENT ON COLUMN nodes.served_epoch IS 'Superseded by node_processes, like served_revision and refusals.';

-- All changes of one writing transaction: what a node refused is compared with them.
CREATE INDEX config_changes_transaction ON config_changes (xid);
