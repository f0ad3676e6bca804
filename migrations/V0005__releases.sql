-- What went live: immutable compiled releases of a product, and the pointer to the one that is served.

CREATE TABLE releases (
    id         uuid PRIMARY KEY,
    product_id uuid NOT NULL REFERENCES api_products ON DELETE RESTRICT,
    number     int NOT NULL CHECK (number >= 1),
    compiled   bytea NOT NULL CHECK (octet_length(compiled) BETWEEN 1 AND 16777216),
    summary    jsonb NOT NULL CHECK (jsonb_typeof(summary) = 'object'),
    note       text NOT NULL DEFAULT '' CHECK (length(note) <= 2000),
    created_by uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (product_id, number),
    UNIQUE (id, product_id)
);
COMMENT ON COLUMN releases.compiled IS 'The product as the snapshot''s wire format carries it.';
COMMENT ON COLUMN releases.summary IS 'Endpoints, plans and settings in readable form, to compare two releases.';
CREATE INDEX releases_created_by ON releases (created_by);
CREATE TRIGGER releases_are_immutable BEFORE UPDATE OR DELETE ON releases FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER releases_are_kept BEFORE TRUNCATE ON releases FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A product serves a release of its own, never another's.
ALTER TABLE api_products ADD CONSTRAINT api_products_live_release_fkey FOREIGN KEY (live_release_id, id)
    REFERENCES releases (id, product_id) DEFERRABLE INITIALLY DEFERRED;

-- A product that ever had a release may have usage under its endpoints' meter ids: from then on they are retired, not deleted.
CREATE FUNCTION check_endpoint_unmetered() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM releases WHERE product_id = OLD.product_id) THEN
        RAISE EXCEPTION 'endpoint % may have been metered: retire it', OLD.id
            USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER endpoints_kept BEFORE DELETE ON endpoints FOR EACH ROW EXECUTE FUNCTION check_endpoint_unmetered();
