-- How a change reaches the gateways: unnumbered changes written with their rows, the feed's own state, and the nodes that acknowledge.

-- The writer inserts without a revision; the sequencer (one at a time, by advisory lock) numbers what it can see. Nothing here notifies:
-- NOTIFY inside the writing transaction would make every writer queue for one lock through its commit.
CREATE TABLE config_changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity     text NOT NULL CHECK (entity IN ('organization', 'product', 'plan', 'subscription', 'key', 'fleet')),
    entity_id  uuid,
    revision   bigint UNIQUE CHECK (revision >= 1),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT config_changes_entity_named CHECK (entity = 'fleet' OR entity_id IS NOT NULL)
);
COMMENT ON COLUMN config_changes.revision IS 'Null until numbered; gap-free.';
COMMENT ON COLUMN config_changes.xid IS 'The writing transaction: all its changes belong together.';
CREATE INDEX config_changes_unnumbered ON config_changes (id) WHERE revision IS NULL;
CREATE INDEX config_changes_age ON config_changes (created_at);
CREATE TRIGGER config_changes_numbered_once BEFORE UPDATE ON config_changes
    FOR EACH ROW WHEN (OLD.revision IS NOT NULL) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER config_changes_identity BEFORE UPDATE ON config_changes
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('entity', 'entity_id', 'xid');

CREATE TABLE feed_state (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch      uuid NOT NULL DEFAULT gen_random_uuid(),
    revision   bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
    fleet_max  int NOT NULL DEFAULT 1 CHECK (fleet_max BETWEEN 1 AND 10000),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN feed_state.epoch IS 'Replaced after a restore from backup, so that every gateway asks for everything again.';
COMMENT ON COLUMN feed_state.fleet_max IS 'For how many gateways the limits'' bounds are stated.';
INSERT INTO feed_state DEFAULT VALUES;
CREATE TRIGGER feed_state_kept BEFORE DELETE ON feed_state FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE nodes (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 120),
    boot_id         uuid NOT NULL,
    version         text NOT NULL CHECK (length(version) BETWEEN 1 AND 64),
    features        text[] NOT NULL DEFAULT '{}' CHECK (text_array_within(features, 256, 64)),
    state           text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'drained', 'removed')),
    address         text CHECK (length(address) BETWEEN 1 AND 255),
    served_epoch    uuid,
    served_revision bigint CHECK (served_revision >= 0),
    refusals        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(refusals) = 'array'),
    first_seen_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at    timestamptz NOT NULL DEFAULT now(),
    CHECK ((served_epoch IS NULL) = (served_revision IS NULL))
);
COMMENT ON COLUMN nodes.version IS 'Of the node''s software.';
COMMENT ON COLUMN nodes.state IS 'Set by an operator; a node that is neither drained nor removed is expected to acknowledge.';
COMMENT ON COLUMN nodes.refusals IS 'What the node could not serve of its revision, with reasons.';
