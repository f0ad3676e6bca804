-- People and how they sign in: users, sessions, identities at other issuers; and the small functions that every later file uses.
-- Rules of this schema: ids are UUIDv7 given by the application; an enum is text with a CHECK; every text has a length; a refusal
-- by a trigger has SQLSTATE 23000 and names itself in the error's constraint field, like any other constraint.

-- At most `items_max` items of 1 to `item_length_max` characters, none of them null.
CREATE FUNCTION text_array_within(items text[], items_max int, item_length_max int) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT cardinality(items) <= items_max AND coalesce(array_ndims(items), 1) = 1
       AND NOT EXISTS (SELECT FROM unnest(items) AS t(item) WHERE item IS NULL OR length(item) NOT BETWEEN 1 AND item_length_max)
$$;

-- Every change of an editable row moves its version, so that an ETag cannot be forgotten.
CREATE FUNCTION touch_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

-- For append-only tables, and for tables whose rows are never deleted.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is not allowed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
END $$;

-- The columns named in the trigger's arguments never change once written.
CREATE FUNCTION refuse_column_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    column_name text;
BEGIN
    FOREACH column_name IN ARRAY TG_ARGV LOOP
        IF to_jsonb(OLD) -> column_name IS DISTINCT FROM to_jsonb(NEW) -> column_name THEN
            RAISE EXCEPTION '%.% never changes', TG_TABLE_NAME, column_name
                USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME, COLUMN = column_name;
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

CREATE TABLE users (
    id                uuid PRIMARY KEY,
    email             text NOT NULL CHECK (length(email) BETWEEN 3 AND 254 AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    password_hash     text CHECK (length(password_hash) BETWEEN 20 AND 512),
    display_name      text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 120),
    is_admin          boolean NOT NULL DEFAULT false,
    status            text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    email_verified_at timestamptz,
    last_sign_in_at   timestamptz,
    version           bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN users.password_hash IS 'Argon2id in PHC form; null for a user who signs in at another issuer only.';
COMMENT ON COLUMN users.is_admin IS 'Operator of this installation; not a role in an organization.';
CREATE UNIQUE INDEX users_email_key ON users (lower(email));
CREATE INDEX users_page ON users (created_at, id);
-- Signing in does not change what an editor sees, so last_sign_in_at is not in the list.
CREATE TRIGGER users_touch BEFORE UPDATE OF email, password_hash, display_name, is_admin, status, email_verified_at ON users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();

CREATE TABLE sessions (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token_digest bytea NOT NULL UNIQUE CHECK (octet_length(token_digest) = 32),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    user_agent   text CHECK (length(user_agent) <= 512),
    address      inet,
    revoked_at   timestamptz,
    CHECK (expires_at > created_at)
);
CREATE INDEX sessions_page ON sessions (user_id, created_at, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE oauth_identities (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    issuer       text NOT NULL CHECK (length(issuer) BETWEEN 1 AND 512),
    subject      text NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    email        text CHECK (length(email) <= 254),
    last_used_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (issuer, subject)
);
COMMENT ON COLUMN oauth_identities.email IS 'As the issuer last said it; shown, never used to find the user.';
CREATE INDEX oauth_identities_user ON oauth_identities (user_id);
