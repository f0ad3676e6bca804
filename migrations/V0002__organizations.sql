-- Tenants and who may act for them: organizations, their members with roles, and access tokens
-- (which may be bound to one organization).

CREATE TABLE organizations (
    id          uuid PRIMARY KEY,
    slug        text NOT NULL UNIQUE CHECK (length(slug) BETWEEN 2 AND 40 AND slug ~ '^[a-z0-9](-?[a-z0-9])*$'),
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    is_personal boolean NOT NULL DEFAULT false,
    time_zone   text NOT NULL DEFAULT 'UTC' CHECK (length(time_zone) BETWEEN 1 AND 64),
    currency    char(3) NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    version     bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    -- A zone that Postgres does not know fails here with 22023: invoices are cut in this zone.
    CHECK ((timestamptz '2000-01-01 00:00:00+00' AT TIME ZONE time_zone) IS NOT NULL)
);
COMMENT ON COLUMN organizations.slug IS
    'First segment of a product''s address on the gateway; the application refuses reserved words.';
COMMENT ON COLUMN organizations.is_personal IS 'Made for a user at sign-up, so that every subscription has an organization.';
CREATE INDEX organizations_page ON organizations (created_at, id);
CREATE TRIGGER organizations_touch BEFORE UPDATE ON organizations
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();

CREATE TABLE organization_members (
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role            text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer')),
    version         bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    joined_at       timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX organization_members_page ON organization_members (organization_id, joined_at, user_id);
CREATE INDEX organization_members_user ON organization_members (user_id);
CREATE TRIGGER organization_members_touch BEFORE UPDATE ON organization_members
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER organization_members_identity BEFORE UPDATE OF organization_id, user_id ON organization_members
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('organization_id', 'user_id');

-- Runs at commit. Writing the organization's row makes two transactions that each remove one of two owners meet: the second waits
-- and then sees no owner (READ COMMITTED), or fails with 40001 and is retried (above). No row: the organization itself was deleted.
CREATE FUNCTION check_last_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE organizations SET updated_at = updated_at WHERE id = OLD.organization_id;
    IF FOUND AND NOT EXISTS (
        SELECT FROM organization_members WHERE organization_id = OLD.organization_id AND role = 'owner'
    ) THEN
        RAISE EXCEPTION 'organization % would lose its last owner', OLD.organization_id
            USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER organization_members_last_owner AFTER UPDATE OR DELETE ON organization_members
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION check_last_owner();

CREATE TABLE access_tokens (
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    organization_id uuid REFERENCES organizations ON DELETE CASCADE,
    name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    prefix          text NOT NULL CHECK (length(prefix) BETWEEN 1 AND 32),
    token_digest    bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
    scopes          text[] NOT NULL DEFAULT '{}' CHECK (text_array_within(scopes, 32, 64)),
    expires_at      timestamptz,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN access_tokens.organization_id IS 'When set, the token reaches this organization only.';
COMMENT ON COLUMN access_tokens.token_digest IS 'SHA-256; the token itself is shown once and never stored.';
CREATE INDEX access_tokens_page ON access_tokens (user_id, created_at, id);
CREATE INDEX access_tokens_organization ON access_tokens (organization_id, created_at, id);
