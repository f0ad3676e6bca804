-- What keeps the control plane honest and repeatable: the audit log, idempotency keys, and leases of background jobs.

-- No foreign keys: an entry outlives the user, the token and the organization that it names.
CREATE TABLE audit_log (
    id              uuid PRIMARY KEY,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    actor_user_id   uuid,
    actor_token_id  uuid,
    organization_id uuid,
    action          text NOT NULL CHECK (action ~ '^[a-z][a-z0-9_.]{0,79}$'),
    target_kind     text NOT NULL CHECK (target_kind ~ '^[a-z][a-z0-9_]{0,39}$'),
    target_id       uuid,
    before          jsonb,
    after           jsonb,
    address         inet,
    request_id      uuid
);
COMMENT ON COLUMN audit_log.actor_user_id IS 'Null when the system acted.';
COMMENT ON COLUMN audit_log.before IS 'Redacted: digests and secrets never appear.';
CREATE INDEX audit_log_organization ON audit_log (organization_id, id DESC);
CREATE INDEX audit_log_actor ON audit_log (actor_user_id, id DESC);
CREATE INDEX audit_log_target ON audit_log (target_kind, target_id, id DESC);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_kept BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE idempotency_keys (
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    method          text NOT NULL CHECK (length(method) BETWEEN 1 AND 16),
    path            text NOT NULL CHECK (length(path) BETWEEN 1 AND 2048),
    request_digest  bytea NOT NULL CHECK (octet_length(request_digest) = 32),
    status          smallint CHECK (status BETWEEN 200 AND 599),
    response        jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL,
    PRIMARY KEY (user_id, idempotency_key),
    CHECK (expires_at > created_at),
    CHECK (status IS NOT NULL OR response IS NULL)
);
COMMENT ON COLUMN idempotency_keys.status IS 'Null while the first request is still running.';
COMMENT ON COLUMN idempotency_keys.response IS 'Never holds a secret: a replay says secret_already_shown.';
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE background_jobs (
    name         text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 80),
    last_run_at  timestamptz,
    last_result  text CHECK (length(last_result) <= 2000),
    next_run_at  timestamptz NOT NULL DEFAULT now(),
    lease_holder text CHECK (length(lease_holder) BETWEEN 1 AND 120),
    lease_until  timestamptz,
    CHECK ((lease_holder IS NULL) = (lease_until IS NULL))
);
