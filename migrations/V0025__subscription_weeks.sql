-- Whole subscriptions by week, for top lists over thousands of them: a month is read from some four weeks and the days at its ends.
CREATE TABLE usage_subscription_weeks (
    product_meter_id      bigint NOT NULL,
    week                  date NOT NULL CHECK (extract(isodow FROM week) = 1),
    subscription_meter_id bigint NOT NULL,
    request_count         bigint NOT NULL,
    limited_count         bigint NOT NULL,
    server_error_count    bigint NOT NULL,
    request_bytes         bigint NOT NULL,
    response_bytes        bigint NOT NULL,
    latency_us_sum        bigint NOT NULL,
    PRIMARY KEY (product_meter_id, week, subscription_meter_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN usage_subscription_weeks.week IS 'Its Monday, in UTC.';
CREATE INDEX usage_subscription_weeks_time ON usage_subscription_weeks (week);

-- The database writes it, so that no path forgets it, nor a control plane that does not know it yet: by how much days have changed.
CREATE FUNCTION change_subscription_weeks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO usage_subscription_weeks AS w
        SELECT product_meter_id, day - (extract(isodow FROM day)::int - 1), subscription_meter_id, sum(request_count), sum(limited_count),
            sum(server_error_count), sum(request_bytes), sum(response_bytes), sum(latency_us_sum)
        FROM new_days GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (product_meter_id, week, subscription_meter_id) DO UPDATE SET request_count = w.request_count + excluded.request_count,
            limited_count = w.limited_count + excluded.limited_count,
            server_error_count = w.server_error_count + excluded.server_error_count,
            request_bytes = w.request_bytes + excluded.request_bytes, response_bytes = w.response_bytes + excluded.response_bytes,
            latency_us_sum = w.latency_us_sum + excluded.latency_us_sum;
    ELSE
        UPDATE usage_subscription_weeks w SET request_count = w.request_count + c.request_count,
            limited_count = w.limited_count + c.limited_count, server_error_count = w.server_error_count + c.server_error_count,
            request_bytes = w.request_bytes + c.request_bytes, response_bytes = w.response_bytes + c.response_bytes,
            latency_us_sum = w.latency_us_sum + c.latency_us_sum
        FROM (SELECT product_meter_id, day - (extract(isodow FROM day)::int - 1) AS week, subscription_meter_id,
                sum(n.request_count - o.request_count) AS request_count, sum(n.limited_count - o.limited_count) AS limited_count,
                sum(n.server_error_count - o.server_error_count) AS server_error_count,
                sum(n.request_bytes - o.request_bytes) AS request_bytes, sum(n.response_bytes - o.response_bytes) AS response_bytes,
                sum(n.latency_us_sum - o.latency_us_sum) AS latency_us_sum
            FROM new_days n JOIN old_days o USING (product_meter_id, day, subscription_meter_id) GROUP BY 1, 2, 3) c
        WHERE w.product_meter_id = c.product_meter_id AND w.week = c.week AND w.subscription_meter_id = c.subscription_meter_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER usage_subscription_weeks_of_new_days AFTER INSERT ON usage_subscription_days
    REFERENCING NEW TABLE AS new_days FOR EACH STATEMENT EXECUTE FUNCTION change_subscription_weeks();
CREATE TRIGGER usage_subscription_weeks_of_changed_days AFTER UPDATE ON usage_subscription_days
    REFERENCING OLD TABLE AS old_days NEW TABLE AS new_days FOR EACH STATEMENT EXECUTE FUNCTION change_subscription_weeks();

INSERT INTO usage_subscription_weeks
SELECT product_meter_id, day - (extract(isodow FROM day)::int - 1), subscription_meter_id, sum(request_count), sum(limited_count),
    sum(server_error_count), sum(request_bytes), sum(response_bytes), sum(latency_us_sum)
FROM usage_subscription_days GROUP BY 1, 2, 3;
