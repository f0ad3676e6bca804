-- Invoices as they are made: numbers without gaps per publisher, what holds a draft back, what the platform keeps; and what consumers
-- want to be warned of.

-- Plans of one publisher may be priced in several currencies; an invoice has one.
ALTER TABLE invoices DROP CONSTRAINT invoices_consumer_organization_id_publisher_organization_id_key;
ALTER TABLE invoices ADD CONSTRAINT invoices_month_key
    UNIQUE (consumer_organization_id, publisher_organization_id, month, currency);
-- A number is the publisher's own.
ALTER TABLE invoices DROP CONSTRAINT invoices_number_key;
ALTER TABLE invoices ADD COLUMN sequence bigint CHECK (sequence >= 1);
ALTER TABLE invoices ADD CONSTRAINT invoices_number_key UNIQUE (publisher_organization_id, number);
ALTER TABLE invoices ADD CONSTRAINT invoices_sequence_key UNIQUE (publisher_organization_id, sequence);
ALTER TABLE invoices ADD CONSTRAINT invoices_numbered_when CHECK ((number IS NULL) = (sequence IS NULL));
ALTER TABLE invoices ADD COLUMN held_back text[] NOT NULL DEFAULT '{}' CHECK (text_array_within(held_back, 64, 500));
ALTER TABLE invoices ADD CONSTRAINT invoices_issued_is_not_held_back CHECK (status = 'draft' OR cardinality(held_back) = 0);
ALTER TABLE invoices ADD COLUMN fee_percent numeric(7, 4) NOT NULL DEFAULT 0 CHECK (fee_percent BETWEEN 0 AND 100);
ALTER TABLE invoices ADD COLUMN fee numeric(20, 6) NOT NULL DEFAULT 0 CHECK (fee >= 0 AND fee <> 'NaN');
COMMENT ON COLUMN invoices.held_back IS 'Why a draft is provisional, as it was last tried.';
COMMENT ON COLUMN invoices.fee IS 'What the platform keeps of what the publisher earns; not the consumer''s business.';
DROP TRIGGER invoices_issued_is_immutable ON invoices;
CREATE TRIGGER invoices_issued_is_immutable BEFORE UPDATE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft')
    EXECUTE FUNCTION refuse_column_change('id', 'number', 'sequence', 'consumer_organization_id', 'publisher_organization_id', 'month',
        'period_start', 'period_end', 'time_zone', 'currency', 'total', 'issued_at', 'due_at', 'fee_percent', 'fee', 'created_at');
CREATE INDEX invoices_all_page ON invoices (created_at, id);
CREATE INDEX invoices_unpaid ON invoices (due_at) WHERE status = 'issued';
CREATE INDEX invoices_drafts ON invoices (month) WHERE status = 'draft';

-- The month that a line is for: an adjustment stands on a later invoice than the month it corrects.
ALTER TABLE invoice_lines ADD COLUMN month date CHECK (extract(day FROM month) = 1);
CREATE INDEX invoice_lines_rated ON invoice_lines (subscription_id, month);

-- Locked by whoever issues, and rolled back with him: numbers have no gaps.
CREATE TABLE invoice_numbers (
    publisher_organization_id uuid PRIMARY KEY REFERENCES organizations ON DELETE RESTRICT,
    last_sequence             bigint NOT NULL CHECK (last_sequence >= 1)
);

CREATE INDEX billing_events_credit ON billing_events (consumer_organization_id, publisher_organization_id, currency)
    WHERE kind LIKE 'credit.%';

CREATE TABLE budgets (
    consumer_organization_id  uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    publisher_organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    amount                    numeric(20, 6) NOT NULL CHECK (amount > 0 AND amount <> 'NaN'),
    currency                  char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    version                   bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at                timestamptz NOT NULL DEFAULT now(),
    updated_at                timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_organization_id, publisher_organization_id, currency)
);
COMMENT ON TABLE budgets IS 'What a consumer means to spend with a publisher in a month; at 85 and 100 % he is told.';
CREATE TRIGGER budgets_touch BEFORE UPDATE ON budgets
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();
CREATE INDEX subscriptions_past_due ON subscriptions (past_due_since) WHERE past_due_since IS NOT NULL;
