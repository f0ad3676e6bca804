-- Billing time: a publisher's months, in order and without gaps; which usage belongs to which; which plan a subscription held when;
-- and the simulation clock, which moves billing time and never the time of an event.

CREATE TABLE billing_clocks (
    organization_id uuid PRIMARY KEY REFERENCES organizations ON DELETE RESTRICT,
    ahead_s         bigint NOT NULL CHECK (ahead_s BETWEEN 0 AND 3200000000),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE billing_clocks IS 'Publishers whose billing time was moved by the simulation clock; without a row it is the real time.';

-- What time it is for the bills of a publisher.
CREATE FUNCTION billing_now(publisher uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT now() + make_interval(secs => coalesce((SELECT c.ahead_s FROM billing_clocks c WHERE c.organization_id = $1), 0))
$$;
CREATE FUNCTION billing_now_of_product(product uuid) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT billing_now((SELECT p.organization_id FROM api_products p WHERE p.id = $1))
$$;

CREATE TABLE billing_months (
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE RESTRICT,
    month           date NOT NULL CHECK (extract(day FROM month) = 1),
    starts_at       timestamptz NOT NULL,
    ends_at         timestamptz NOT NULL,
    time_zone       text NOT NULL CHECK (length(time_zone) BETWEEN 1 AND 64),
    usage_from      timestamptz NOT NULL,
    usage_until     timestamptz NOT NULL,
    ended_by_clock  boolean NOT NULL DEFAULT false,
    settled_at      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, month),
    CONSTRAINT billing_months_bounds CHECK (starts_at < ends_at AND usage_from <= usage_until)
);
COMMENT ON TABLE billing_months IS 'A publisher''s months: each begins where the one before it ended, in the time zone that was his when it began.';
COMMENT ON COLUMN billing_months.usage_from IS 'Event time, a quarter of an hour; starts_at unless the simulation clock moved.';
COMMENT ON COLUMN billing_months.ended_by_clock IS 'Its last quarter is shared with the next month: billing_marks says how.';
COMMENT ON COLUMN billing_months.settled_at IS 'Everything of it that could be issued then was.';
CREATE INDEX billing_months_open ON billing_months (ends_at) WHERE settled_at IS NULL;
CREATE TRIGGER billing_months_identity BEFORE UPDATE OF organization_id, month, starts_at, ends_at, time_zone, usage_from ON billing_months
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('organization_id', 'month', 'starts_at', 'ends_at', 'time_zone', 'usage_from');

-- What of the quarter at a moved boundary had been counted before: it belongs to the month that ended, the rest to the next one.
CREATE TABLE billing_marks (
    organization_id       uuid NOT NULL,
    month                 date NOT NULL,
    subscription_meter_id bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    quarter_hour          timestamptz NOT NULL,
    billable_count        bigint NOT NULL CHECK (billable_count >= 0),
    PRIMARY KEY (organization_id, month, subscription_meter_id, plan_meter_id),
    FOREIGN KEY (organization_id, month) REFERENCES billing_months ON DELETE RESTRICT
);
COMMENT ON COLUMN billing_marks.month IS 'The month that the clock ended.';

-- Which plan a subscription held from when until when, in billing time. The database writes it, so that no path forgets it.
CREATE TABLE subscription_terms (
    subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE RESTRICT,
    starts_at       timestamptz NOT NULL,
    ends_at         timestamptz,
    plan_id         uuid NOT NULL REFERENCES plans ON DELETE RESTRICT,
    free_until      timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscription_id, starts_at),
    CONSTRAINT subscription_terms_bounds CHECK (starts_at <= ends_at)
);
COMMENT ON COLUMN subscription_terms.free_until IS 'The end of the free trial; nothing before it is charged.';
CREATE UNIQUE INDEX subscription_terms_open ON subscription_terms (subscription_id) WHERE ends_at IS NULL;
CREATE INDEX subscription_terms_plan ON subscription_terms (plan_id);
CREATE TRIGGER subscription_terms_past_is_kept BEFORE UPDATE ON subscription_terms
    FOR EACH ROW WHEN (OLD.ends_at IS NOT NULL) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER subscription_terms_kept BEFORE DELETE ON subscription_terms FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The trial counts from the activation, in days of the publisher's calendar, and only for the organization's first subscription to the
-- product: cancelling and subscribing again gives no second one.
CREATE FUNCTION trial_end(buyer uuid, bought_product uuid, subscription uuid, plan uuid, activated timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT ($5 AT TIME ZONE o.time_zone + make_interval(days => l.trial_days)) AT TIME ZONE o.time_zone
    FROM plans l JOIN api_products p ON p.id = l.product_id JOIN organizations o ON o.id = p.organization_id
    WHERE l.id = $4 AND l.trial_days > 0 AND NOT EXISTS (
        SELECT FROM subscriptions s
        WHERE s.organization_id = $1 AND s.product_id = $2 AND s.id <> $3 AND s.activated_at <= $5)
$$;

CREATE FUNCTION record_subscription_terms() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held     subscription_terms;
    boundary timestamptz;
BEGIN
    SELECT * INTO held FROM subscription_terms WHERE subscription_id = NEW.id AND ends_at IS NULL FOR UPDATE;
    IF NEW.status = 'cancelled' THEN
        UPDATE subscription_terms SET ends_at = greatest(starts_at, NEW.cancelled_at)
        WHERE subscription_id = NEW.id AND ends_at IS NULL;
        RETURN NULL;
    END IF;
    IF NEW.activated_at IS NULL OR held.plan_id = NEW.plan_id THEN
        RETURN NULL;
    END IF;
    boundary := CASE
        WHEN held.subscription_id IS NULL THEN NEW.activated_at
        -- A plan that waited takes effect where the old period ended, however late somebody says so.
        WHEN OLD.period_end < NEW.period_end THEN OLD.period_end
        ELSE billing_now_of_product(NEW.product_id) END;
    IF held.starts_at >= boundary THEN
        UPDATE subscription_terms SET plan_id = NEW.plan_id,
            free_until = trial_end(NEW.organization_id, NEW.product_id, NEW.id, NEW.plan_id, NEW.activated_at)
        WHERE subscription_id = NEW.id AND ends_at IS NULL;
        RETURN NULL;
    END IF;
    UPDATE subscription_terms SET ends_at = boundary WHERE subscription_id = NEW.id AND ends_at IS NULL;
    INSERT INTO subscription_terms (subscription_id, starts_at, plan_id, free_until)
    VALUES (NEW.id, boundary, NEW.plan_id,
        trial_end(NEW.organization_id, NEW.product_id, NEW.id, NEW.plan_id, NEW.activated_at));
    RETURN NULL;
END $$;
CREATE TRIGGER subscriptions_terms AFTER INSERT OR UPDATE OF plan_id, status, activated_at, cancelled_at ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION record_subscription_terms();

INSERT INTO subscription_terms (subscription_id, starts_at, ends_at, plan_id, free_until)
SELECT s.id, s.activated_at, greatest(s.activated_at, s.cancelled_at), s.plan_id,
    trial_end(s.organization_id, s.product_id, s.id, s.plan_id, s.activated_at)
FROM subscriptions s WHERE s.activated_at IS NOT NULL;
