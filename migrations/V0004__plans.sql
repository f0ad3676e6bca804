-- What is sold: plan versions (each an immutable row once active) and the one rate limit policy of each,
-- which says how it is enforced.

CREATE TABLE plans (
    id                     uuid PRIMARY KEY,
    meter_id               bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    product_id             uuid NOT NULL REFERENCES api_products ON DELETE RESTRICT,
    family_id              uuid NOT NULL,
    version                int NOT NULL DEFAULT 1 CHECK (version >= 1),
    previous_version       int GENERATED ALWAYS AS (nullif(version - 1, 0)) STORED,
    slug                   text NOT NULL CHECK (length(slug) BETWEEN 2 AND 40 AND slug ~ '^[a-z0-9](-?[a-z0-9])*$'),
    name                   text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    description            text NOT NULL DEFAULT '' CHECK (length(description) <= 4000),
    status                 text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'active', 'archived')),
    price                  numeric(20, 6) NOT NULL CHECK (price >= 0 AND price <> 'NaN'),
    currency               char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    billing_period         text NOT NULL DEFAULT 'month' CHECK (billing_period IN ('month')),
    rate_limit             int NOT NULL CHECK (rate_limit BETWEEN 1 AND 100000000),
    included_requests      bigint CHECK (included_requests BETWEEN 0 AND 1000000000000),
    quota_mode             text NOT NULL DEFAULT 'hard' CHECK (quota_mode IN ('hard', 'soft')),
    overage_price_per_1000 numeric(20, 6) CHECK (overage_price_per_1000 >= 0 AND overage_price_per_1000 <> 'NaN'),
    trial_days             int NOT NULL DEFAULT 0 CHECK (trial_days BETWEEN 0 AND 365),
    billable_statuses      text[] NOT NULL DEFAULT '{2xx}'
                           CHECK (billable_statuses <@ '{1xx,2xx,3xx,4xx,5xx}' AND cardinality(billable_statuses) <= 5),
    row_version            bigint NOT NULL DEFAULT 1 CHECK (row_version >= 1),
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now(),
    UNIQUE (family_id, version),
    UNIQUE (product_id, slug, version),
    -- Targets of composite foreign keys: they carry an equality into another table.
    UNIQUE (id, rate_limit),
    UNIQUE (id, product_id),
    UNIQUE (family_id, product_id, slug, version),
    -- Versions of a family are gap-free and stay in one product under one slug.
    CONSTRAINT plans_previous_version FOREIGN KEY (family_id, product_id, slug, previous_version)
        REFERENCES plans (family_id, product_id, slug, version),
    CONSTRAINT plans_overage_needs_soft_quota
        CHECK (overage_price_per_1000 IS NULL OR (quota_mode = 'soft' AND included_requests IS NOT NULL))
);
COMMENT ON COLUMN plans.version IS 'The plan''s version within its family, as bought; the ETag is row_version.';
COMMENT ON COLUMN plans.rate_limit IS 'Requests per minute as sold; equals the policy''s requests_per_minute.';
COMMENT ON COLUMN plans.included_requests IS 'Per month; null is unlimited.';
COMMENT ON COLUMN plans.billable_statuses IS 'Status classes that cost money.';
CREATE INDEX plans_page ON plans (product_id, created_at, id);
CREATE UNIQUE INDEX plans_active_key ON plans (family_id) WHERE status = 'active';

CREATE FUNCTION touch_plan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.row_version := OLD.row_version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER plans_touch BEFORE UPDATE ON plans FOR EACH ROW EXECUTE FUNCTION touch_plan();
CREATE TRIGGER plans_identity BEFORE UPDATE OF meter_id, product_id, family_id, version ON plans
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('meter_id', 'product_id', 'family_id', 'version');
-- A subscriber keeps what he bought. Name and description stay editable.
CREATE TRIGGER plans_sold_is_immutable
    BEFORE UPDATE OF slug, price, currency, billing_period, rate_limit, included_requests, quota_mode, overage_price_per_1000,
        trial_days, billable_statuses ON plans
    FOR EACH ROW WHEN (OLD.status <> 'draft')
    EXECUTE FUNCTION refuse_column_change('slug', 'price', 'currency', 'billing_period', 'rate_limit', 'included_requests',
        'quota_mode', 'overage_price_per_1000', 'trial_days', 'billable_statuses');
CREATE TRIGGER plans_status_goes_forward BEFORE UPDATE OF status ON plans
    FOR EACH ROW WHEN (NEW.status <> OLD.status AND (NEW.status = 'draft' OR OLD.status = 'archived'))
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER plans_kept BEFORE DELETE ON plans
    FOR EACH ROW WHEN (OLD.status <> 'draft') EXECUTE FUNCTION refuse_change();

CREATE TABLE rate_limit_policies (
    id                  uuid PRIMARY KEY,
    plan_id             uuid NOT NULL UNIQUE,
    requests_per_minute int NOT NULL CHECK (requests_per_minute >= 1),
    burst_limit         int NOT NULL CHECK (burst_limit BETWEEN 1 AND 100000000),
    algorithm           text NOT NULL DEFAULT 'token_bucket'
                        CHECK (algorithm IN ('token_bucket', 'sliding_window', 'fixed_window')),
    on_redis_down       text NOT NULL DEFAULT 'fair_share' CHECK (on_redis_down IN ('fair_share', 'open', 'closed')),
    strict              boolean NOT NULL DEFAULT false,
    version             bigint NOT NULL DEFAULT 1 CHECK (version >= 1),
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    -- Deferred, so that a draft's limit and its policy can change in either order.
    CONSTRAINT rate_limit_policies_plan_fkey FOREIGN KEY (plan_id, requests_per_minute) REFERENCES plans (id, rate_limit)
        ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT rate_limit_policies_window_has_no_burst CHECK (algorithm = 'token_bucket' OR burst_limit = requests_per_minute)
);
COMMENT ON COLUMN rate_limit_policies.burst_limit IS 'Token bucket: its size. Windows: equals requests_per_minute.';
COMMENT ON COLUMN rate_limit_policies.on_redis_down IS 'fair_share keeps the stated bound and may refuse above a node''s share.';
COMMENT ON COLUMN rate_limit_policies.strict IS 'No overdraft: a decision may wait for an answer already in flight.';
CREATE TRIGGER rate_limit_policies_touch BEFORE UPDATE ON rate_limit_policies
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch_row();

-- The row lock makes a change of the policy and the activation of its plan meet. No plan: it is being deleted with its policy.
CREATE FUNCTION check_policy_of_draft() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    plan_status text;
BEGIN
    SELECT status INTO plan_status FROM plans WHERE id = OLD.plan_id FOR SHARE;
    IF plan_status <> 'draft' THEN
        RAISE EXCEPTION 'the policy of an % plan never changes', plan_status
            USING ERRCODE = '23000', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER rate_limit_policies_sold_is_immutable BEFORE UPDATE OR DELETE ON rate_limit_policies
    FOR EACH ROW EXECUTE FUNCTION check_policy_of_draft();
CREATE TRIGGER rate_limit_policies_identity BEFORE UPDATE OF plan_id ON rate_limit_policies
    FOR EACH ROW EXECUTE FUNCTION refuse_column_change('plan_id');

-- At commit every plan has a policy; the unique key on plan_id makes it exactly one.
CREATE FUNCTION check_plan_has_policy() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    plan uuid := CASE WHEN TG_TABLE_NAME = 'plans' THEN (to_jsonb(NEW) ->> 'id')::uuid ELSE (to_jsonb(OLD) ->> 'plan_id')::uuid END;
BEGIN
    IF EXISTS (SELECT FROM plans WHERE id = plan) AND NOT EXISTS (SELECT FROM rate_limit_policies WHERE plan_id = plan) THEN
        RAISE EXCEPTION 'plan % has no rate limit policy', plan
            USING ERRCODE = '23000', CONSTRAINT = 'plans_have_a_policy', TABLE = 'plans';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER plans_have_a_policy AFTER INSERT ON plans
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_plan_has_policy();
CREATE CONSTRAINT TRIGGER plans_keep_a_policy AFTER DELETE ON rate_limit_policies
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_plan_has_policy();
