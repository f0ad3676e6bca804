-- What is bought: subscriptions of an organization to a product, and the API keys that use them.
-- Rows are metered, so none is ever deleted.

CREATE TABLE subscriptions (
    id                           uuid PRIMARY KEY,
    meter_id                     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    product_id                   uuid NOT NULL REFERENCES api_products ON DELETE RESTRICT,
    plan_id                      uuid NOT NULL,
    next_plan_id                 uuid,
    user_id                      uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    organization_id              uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    status                       text NOT NULL CHECK (status IN ('pending', 'active', 'suspended', 'past_due', 'cancelled')),
    requested_at                 timestamptz NOT NULL DEFAULT now(),
    activated_at                 timestamptz,
    cancelled_at                 timestamptz,
    cancel_at                    timestamptz,
    past_due_since               timestamptz,
    refuse_unpaid_from           timestamptz,
    override_requests_per_minute int CHECK (override_requests_per_minute BETWEEN 1 AND 100000000),
    override_burst_limit         int CHECK (override_burst_limit BETWEEN 1 AND 100000000),
    period_start                 timestamptz,
    period_end                   timestamptz,
    period_id                    int NOT NULL DEFAULT 0 CHECK (period_id >= 0),
    note                         text NOT NULL DEFAULT '' CHECK (length(note) <= 2000),
    version                      bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at                   timestamptz NOT NULL DEFAULT now(),
    updated_at                   timestamptz NOT NULL DEFAULT now(),
    -- The plan is one of this product's.
    CONSTRAINT subscriptions_plan_fkey FOREIGN KEY (plan_id, product_id) REFERENCES plans (id, product_id)
        ON DELETE RESTRICT,
    CONSTRAINT subscriptions_next_plan_fkey FOREIGN KEY (next_plan_id, product_id) REFERENCES plans (id, product_id)
        ON DELETE RESTRICT,
    CONSTRAINT subscriptions_cancelled_when CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL)),
    CONSTRAINT subscriptions_past_due_since_when CHECK (status <> 'past_due' OR past_due_since IS NOT NULL),
    CONSTRAINT subscriptions_active_has_period
        CHECK (status NOT IN ('active', 'past_due') OR (activated_at IS NOT NULL AND period_start IS NOT NULL)),
    CONSTRAINT subscriptions_period_whole CHECK ((period_start IS NULL) = (period_end IS NULL) AND period_start < period_end),
    CONSTRAINT subscriptions_override_whole CHECK ((override_requests_per_minute IS NULL) = (override_burst_limit IS NULL))
);
COMMENT ON COLUMN subscriptions.user_id IS 'Who bought it; his leaving the organization changes nothing.';
COMMENT ON COLUMN subscriptions.organization_id IS 'The consumer''s organization, never the publisher''s by way of the product.';
COMMENT ON COLUMN subscriptions.next_plan_id IS 'Takes effect at period_end (a downgrade).';
COMMENT ON COLUMN subscriptions.cancel_at IS 'Wanted end, normally period_end; cancelled_at is when it happened.';
COMMENT ON COLUMN subscriptions.refuse_unpaid_from IS 'From then on the gateway answers 402.';
COMMENT ON COLUMN subscriptions.period_id IS 'Counts the billing periods; quota counters carry it.';
CREATE UNIQUE INDEX subscriptions_live_key ON subscriptions (organization_id, product_id) WHERE status <> 'cancelled';
CREATE INDEX subscriptions_page ON subscriptions (organization_id, created_at, id);
CREATE INDEX subscriptions_product_page ON subscriptions (product_id, created_at, id);
CREATE INDEX subscriptions_plan ON subscriptions (plan_id);
CREATE INDEX subscriptions_next_plan ON subscriptions (next_plan_id) WHERE next_plan_id IS NOT NULL;
CREATE INDEX subscriptions_user ON subscriptions (user_id);
CREATE INDEX subscriptions_period_end ON subscriptions (period_end) WHERE status <> 'cancelled';
CREATE TRIGGER subscriptions_touch BEFORE UPDATE ON subscriptions
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER subscriptions_identity BEFORE UPDATE OF meter_id, product_id, organization_id ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('meter_id', 'product_id', 'organization_id');
CREATE TRIGGER subscriptions_cancelled_is_final BEFORE UPDATE OF status ON subscriptions
    FOR EACH ROW WHEN (OLD.status = 'cancelled' AND NEW.status <> 'cancelled') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER subscriptions_kept BEFORE DELETE ON subscriptions FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The entity model's `key_value` is deliberately no column: a key is shown once, and only its SHA-256 digest is stored.
CREATE TABLE api_keys (
    id              uuid PRIMARY KEY,
    meter_id        bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE RESTRICT,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    key_digest      bytea NOT NULL UNIQUE CHECK (octet_length(key_digest) = 32),
    prefix          text NOT NULL CHECK (length(prefix) BETWEEN 1 AND 32),
    last_four       text NOT NULL CHECK (length(last_four) = 4),
    environment     text NOT NULL CHECK (environment IN ('live', 'test')),
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
    scopes          text[] NOT NULL DEFAULT '{}' CHECK (text_array_within(scopes, 32, 64)),
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    predecessor_id  uuid UNIQUE,
    created_by      uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    version         bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (id, subscription_id),
    CONSTRAINT api_keys_predecessor_fkey FOREIGN KEY (predecessor_id, subscription_id) REFERENCES api_keys (id, subscription_id)
        ON DELETE RESTRICT,
    CONSTRAINT api_keys_not_its_own_predecessor CHECK (predecessor_id <> id),
    CONSTRAINT api_keys_revoked_when CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
COMMENT ON TABLE api_keys IS 'The key itself (the entity model''s key_value) is never stored; key_digest is its SHA-256.';
COMMENT ON COLUMN api_keys.predecessor_id IS 'The key that this one replaced by rotation; a key is replaced at most once.';
CREATE INDEX api_keys_page ON api_keys (subscription_id, created_at, id);
CREATE INDEX api_keys_created_by ON api_keys (created_by);
-- Use does not change what an editor sees, so last_used_at is not in the list.
CREATE TRIGGER api_keys_touch BEFORE UPDATE OF name, status, scopes, expires_at, revoked_at ON api_keys
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER api_keys_identity
    BEFORE UPDATE OF meter_id, subscription_id, key_digest, prefix, last_four, environment, predecessor_id ON api_keys
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change(
        'meter_id', 'subscription_id', 'key_digest', 'prefix', 'last_four', 'environment', 'predecessor_id');
CREATE TRIGGER api_keys_revoked_is_final BEFORE UPDATE OF status ON api_keys
    FOR EACH ROW WHEN (OLD.status = 'revoked' AND NEW.status <> 'revoked') EXECUTE FUNCTION refuse_change();
CREATE TRIGGER api_keys_kept BEFORE DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION refuse_change();
