-- What is owed: the append-only ledger of billing events, and one invoice per (consumer organization, publisher organization, month).

CREATE TABLE invoices (
    id                        uuid PRIMARY KEY,
    number                    text UNIQUE CHECK (length(number) BETWEEN 1 AND 40),
    consumer_organization_id  uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    publisher_organization_id uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    month                     date NOT NULL CHECK (extract(day FROM month) = 1),
    period_start              timestamptz NOT NULL,
    period_end                timestamptz NOT NULL,
    time_zone                 text NOT NULL CHECK (length(time_zone) BETWEEN 1 AND 64),
    currency                  char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    status                    text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'issued', 'paid', 'void')),
    total                     numeric(20, 6) NOT NULL DEFAULT 0 CHECK (total <> 'NaN'),
    issued_at                 timestamptz,
    due_at                    timestamptz,
    paid_at                   timestamptz,
    voided_at                 timestamptz,
    version                   bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now(),
    UNIQUE (consumer_organization_id, publisher_organization_id, month),
    CHECK (period_start < period_end),
    CONSTRAINT invoices_issued_when CHECK ((status = 'draft') = (issued_at IS NULL) AND (status = 'draft') = (number IS NULL)),
    CONSTRAINT invoices_paid_when CHECK ((status = 'paid') = (paid_at IS NOT NULL)),
    CONSTRAINT invoices_voided_when CHECK ((status = 'void') = (voided_at IS NOT NULL))
);
COMMENT ON COLUMN invoices.number IS 'Given when issued.';
COMMENT ON COLUMN invoices.time_zone IS 'The publisher''s, with the currency frozen for the period.';
CREATE INDEX invoices_page ON invoices (consumer_organization_id, created_at, id);
CREATE INDEX invoices_publisher_page ON invoices (publisher_organization_id, created_at, id);
CREATE TRIGGER invoices_touch BEFORE UPDATE ON invoices
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE TRIGGER invoices_issued_is_immutable BEFORE UPDATE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft')
    EXECUTE FUNCTION refuse_column_change('id', 'number', 'consumer_organization_id', 'publisher_organization_id', 'month',
        'period_start', 'period_end', 'time_zone', 'currency', 'total', 'issued_at', 'due_at', 'created_at');
CREATE TRIGGER invoices_status_goes_forward BEFORE UPDATE OF status ON invoices
    FOR EACH ROW WHEN (NEW.status <> OLD.status AND NOT (
        (OLD.status = 'draft' AND NEW.status = 'issued') OR (OLD.status = 'issued' AND NEW.status IN ('paid', 'void'))))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER invoices_issued_is_kept BEFORE DELETE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft') EXECUTE FUNCTION refuse_change();

CREATE TABLE invoice_lines (
    id              uuid PRIMARY KEY,
    invoice_id      uuid NOT NULL REFERENCES invoices ON DELETE CASCADE,
    position        int NOT NULL CHECK (position >= 1),
    kind            text NOT NULL CHECK (kind IN ('plan', 'overage', 'proration', 'credit', 'adjustment')),
    subscription_id uuid REFERENCES subscriptions ON DELETE RESTRICT,
    plan_id         uuid REFERENCES plans ON DELETE RESTRICT,
    description     text NOT NULL CHECK (length(description) BETWEEN 1 AND 500),
    quantity        numeric(20, 6) NOT NULL CHECK (quantity <> 'NaN'),
    unit_price      numeric(20, 6) NOT NULL CHECK (unit_price <> 'NaN'),
    amount          numeric(20, 6) NOT NULL CHECK (amount <> 'NaN'),
    period_start    timestamptz,
    period_end      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (invoice_id, position),
    CHECK ((period_start IS NULL) = (period_end IS NULL) AND period_start <= period_end)
);
COMMENT ON COLUMN invoice_lines.amount IS 'In the invoice''s currency; rounded once, here.';
CREATE INDEX invoice_lines_subscription ON invoice_lines (subscription_id);
CREATE INDEX invoice_lines_plan ON invoice_lines (plan_id);

-- The row lock makes a late line and the issue of its invoice meet. No invoice: a draft is being deleted with its lines.
CREATE FUNCTION check_line_of_draft() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    invoice_status text;
BEGIN
    SELECT status INTO invoice_status FROM invoices
    WHERE id = CASE WHEN TG_OP = 'INSERT' THEN NEW.invoice_id ELSE OLD.invoice_id END FOR SHARE;
    IF invoice_status <> 'draft' THEN
        RAISE EXCEPTION 'the lines of an issued invoice never change'
            USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER invoice_lines_issued_is_immutable BEFORE INSERT OR UPDATE OR DELETE ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION check_line_of_draft();
CREATE TRIGGER invoice_lines_identity BEFORE UPDATE OF invoice_id ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('invoice_id');

CREATE FUNCTION check_invoice_total() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.total IS DISTINCT FROM (SELECT coalesce(sum(amount), 0) FROM invoice_lines WHERE invoice_id = NEW.id) THEN
        RAISE EXCEPTION 'the total of invoice % is not the sum of its lines', NEW.id
            USING ERRCODE = '23000', CONSTRAINT = 'invoices_total_is_the_sum', TABLE = 'invoices';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER invoices_total_is_the_sum AFTER INSERT OR UPDATE ON invoices
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.status <> 'draft') EXECUTE FUNCTION check_invoice_total();

CREATE TABLE billing_events (
    id                        uuid PRIMARY KEY,
    occurred_at               timestamptz NOT NULL,
    kind                      text NOT NULL CHECK (kind ~ '^[a-z][a-z0-9_.]{0,63}$'),
    consumer_organization_id  uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    publisher_organization_id uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    subscription_id           uuid REFERENCES subscriptions ON DELETE RESTRICT,
    plan_id                   uuid REFERENCES plans ON DELETE RESTRICT,
    invoice_id                uuid REFERENCES invoices ON DELETE RESTRICT,
    quantity                  numeric(20, 6) CHECK (quantity <> 'NaN'),
    amount                    numeric(20, 6) CHECK (amount <> 'NaN'),
    currency                  char(3) CHECK (currency ~ '^[A-Z]{3}$'),
    details                   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object' AND length(details::text) <= 65536),
    dedupe_key                text NOT NULL UNIQUE CHECK (length(dedupe_key) BETWEEN 1 AND 255),
    created_at                timestamptz NOT NULL DEFAULT now(),
    CHECK ((amount IS NULL) = (currency IS NULL))
);
COMMENT ON COLUMN billing_events.dedupe_key IS 'Says what happened, once: a job that runs twice writes one event.';
CREATE INDEX billing_events_page ON billing_events (consumer_organization_id, created_at, id);
CREATE INDEX billing_events_publisher_page ON billing_events (publisher_organization_id, created_at, id);
CREATE INDEX billing_events_subscription ON billing_events (subscription_id, occurred_at);
CREATE INDEX billing_events_plan ON billing_events (plan_id);
CREATE INDEX billing_events_invoice ON billing_events (invoice_id);
CREATE TRIGGER billing_events_append_only BEFORE UPDATE OR DELETE ON billing_events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER billing_events_kept BEFORE TRUNCATE ON billing_events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
