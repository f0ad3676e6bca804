-- What is published: products (APIs), the hosts proved for them, and their endpoints.
-- These rows are the draft; what gateways serve is a release (V0005), compiled from them.

CREATE TABLE api_products (
    id                uuid PRIMARY KEY,
    meter_id          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    organization_id   uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    slug              text NOT NULL CHECK (length(slug) BETWEEN 2 AND 40 AND slug ~ '^[a-z0-9](-?[a-z0-9])*$'),
    name              text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    description       text NOT NULL DEFAULT '' CHECK (length(description) <= 20000),
    category          text CHECK (length(category) BETWEEN 1 AND 60),
    visibility        text NOT NULL DEFAULT 'private' CHECK (visibility IN ('public', 'private')),
    status            text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'published', 'deprecated', 'retired')),
    approval          text NOT NULL DEFAULT 'auto' CHECK (approval IN ('auto', 'manual')),
    key_in_query      boolean NOT NULL DEFAULT false,
    body_bytes_max    bigint NOT NULL DEFAULT 10485760 CHECK (body_bytes_max BETWEEN 0 AND 1099511627776),
    cors              jsonb CHECK (jsonb_typeof(cors) = 'object' AND length(cors::text) <= 16384),
    hosts             text[] NOT NULL DEFAULT '{}' CHECK (text_array_within(hosts, 32, 253)),
    live_release_id   uuid,
    quarantine_reason text CHECK (length(quarantine_reason) BETWEEN 1 AND 4000),
    version           bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, slug),
    -- What is served is a release, so a product that is served has one.
    CONSTRAINT api_products_served_has_release CHECK (status IN ('draft', 'retired') OR live_release_id IS NOT NULL)
);
COMMENT ON COLUMN api_products.meter_id IS 'Never reused; names the product on the wire and in usage.';
COMMENT ON COLUMN api_products.hosts IS 'The verified hosts, sorted; kept by product_hosts. Write there, read here.';
COMMENT ON COLUMN api_products.quarantine_reason IS
    'Why this version of the software could not compile the live release; gateways keep what they serve.';
CREATE INDEX api_products_page ON api_products (organization_id, created_at, id);
CREATE INDEX api_products_hub ON api_products (created_at, id)
    WHERE visibility = 'public' AND status IN ('published', 'deprecated');
CREATE INDEX api_products_category ON api_products (category, created_at, id)
    WHERE visibility = 'public' AND status IN ('published', 'deprecated');
CREATE INDEX api_products_live_release ON api_products (live_release_id, id);
CREATE TRIGGER api_products_touch BEFORE UPDATE ON api_products
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER api_products_identity BEFORE UPDATE OF meter_id, organization_id ON api_products
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('meter_id', 'organization_id');

-- Anyone may claim a host; only its proof is exclusive. So an unproved claim keeps nobody else away.
CREATE TABLE product_hosts (
    product_id  uuid NOT NULL REFERENCES api_products ON DELETE CASCADE,
    host        text NOT NULL CHECK (length(host) <= 253
                    AND host ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$'),
    challenge   text NOT NULL CHECK (length(challenge) BETWEEN 16 AND 128),
    verified_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, host)
);
COMMENT ON COLUMN product_hosts.challenge IS 'What the owner must show by DNS or HTTP.';
CREATE UNIQUE INDEX product_hosts_verified_key ON product_hosts (host) WHERE verified_at IS NOT NULL;
CREATE TRIGGER product_hosts_identity BEFORE UPDATE OF product_id, host ON product_hosts
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('product_id', 'host');

CREATE FUNCTION verified_hosts(product uuid) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(host ORDER BY host), '{}') FROM product_hosts WHERE product_id = product AND verified_at IS NOT NULL
$$;

CREATE FUNCTION keep_product_hosts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed uuid := CASE WHEN TG_OP = 'DELETE' THEN OLD.product_id ELSE NEW.product_id END;
BEGIN
    -- The lock first, so that the list is read after any other change of it has committed.
    PERFORM FROM api_products WHERE id = changed FOR NO KEY UPDATE;
    UPDATE api_products SET hosts = verified_hosts(changed) WHERE id = changed;
    RETURN NULL;
END $$;
CREATE TRIGGER product_hosts_keep AFTER INSERT OR UPDATE OR DELETE ON product_hosts
    FOR EACH ROW EXECUTE FUNCTION keep_product_hosts();

CREATE FUNCTION check_product_hosts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.hosts IS DISTINCT FROM verified_hosts(NEW.id) THEN
        RAISE EXCEPTION 'api_products.hosts follows product_hosts'
            USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER api_products_hosts_kept BEFORE INSERT OR UPDATE OF hosts ON api_products
    FOR EACH ROW EXECUTE FUNCTION check_product_hosts();

CREATE TABLE endpoints (
    id                 uuid PRIMARY KEY,
    meter_id           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    product_id         uuid NOT NULL REFERENCES api_products ON DELETE CASCADE,
    method             text NOT NULL CHECK (method IN ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', '*')),
    path_pattern       text NOT NULL CHECK (length(path_pattern) <= 1024 AND path_pattern LIKE '/%'),
    target_url         text NOT NULL CHECK (length(target_url) <= 2048 AND target_url ~ '^https?://[^[:space:]]+$'),
    scope              text CHECK (length(scope) BETWEEN 1 AND 64),
    connect_timeout_ms int NOT NULL DEFAULT 2000 CHECK (connect_timeout_ms BETWEEN 1 AND 60000),
    read_timeout_ms    int NOT NULL DEFAULT 30000 CHECK (read_timeout_ms BETWEEN 1 AND 3600000),
    write_timeout_ms   int NOT NULL DEFAULT 30000 CHECK (write_timeout_ms BETWEEN 1 AND 3600000),
    total_timeout_ms   int CHECK (total_timeout_ms BETWEEN 1 AND 86400000),
    retries            smallint NOT NULL DEFAULT 0 CHECK (retries BETWEEN 0 AND 3),
    upstream_http      text NOT NULL DEFAULT 'auto' CHECK (upstream_http IN ('auto', 'h1', 'h2')),
    retired_at         timestamptz,
    version            bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN endpoints.scope IS 'What a key must carry; null asks for none.';
COMMENT ON COLUMN endpoints.total_timeout_ms IS 'Null: no limit on the whole exchange (streams, tunnels).';
CREATE UNIQUE INDEX endpoints_route_key ON endpoints (product_id, method, path_pattern) WHERE retired_at IS NULL;
CREATE INDEX endpoints_page ON endpoints (product_id, created_at, id);
CREATE TRIGGER endpoints_touch BEFORE UPDATE ON endpoints
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER endpoints_identity BEFORE UPDATE OF meter_id, product_id ON endpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('meter_id', 'product_id');
