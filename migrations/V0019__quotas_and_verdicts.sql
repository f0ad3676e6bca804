-- What a quota's count is held against, and what of a quota a part of a month gives; requests refused as unpaid told apart from forbidden ones.

-- Of the quarter at a moved boundary, as a quota counts: admitted requests of live keys, less those that failed by our own making.
ALTER TABLE billing_marks ADD COLUMN used_count bigint NOT NULL DEFAULT 0 CHECK (used_count >= 0);

-- Included requests of a subscription's period, as far as it is known which plans it is held under: each by its seconds, a started request
-- is given. Null: no plan of it has a quota. Unlike a bill it gives a trial its share too: what is free is counted.
CREATE FUNCTION included_in_period(subscription uuid, period_start timestamptz, period_end timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT ceil(sum(l.included_requests * (
            floor(extract(epoch FROM least(coalesce(t.ends_at, $3), $3))) - floor(extract(epoch FROM greatest(t.starts_at, $2)))))
        / (floor(extract(epoch FROM $3)) - floor(extract(epoch FROM $2))))::bigint
    FROM subscription_terms t JOIN plans l ON l.id = t.plan_id
    WHERE t.subscription_id = $1 AND t.starts_at < $3 AND (t.ends_at IS NULL OR t.ends_at > $2) AND l.included_requests IS NOT NULL
$$;

ALTER TABLE usage_minutes ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_quarter_hours ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_subscription_days ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_product_minutes ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_product_quarter_hours ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_product_hours ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
ALTER TABLE usage_product_days ADD COLUMN unpaid_count bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN usage_quarter_hours.unpaid_count IS 'Refused with 402. What is neither admitted, limited nor unpaid was forbidden.';

-- For the gauges: warnings of the last day.
CREATE INDEX billing_events_alerts ON billing_events (created_at) WHERE kind LIKE 'alert.%';
