-- What was used: one row per recorded request (by day, dropped by retention), rollups, and the ingest's own memory of what it has counted.
-- Usage names things by meter id and has no foreign keys: it is written in bulk, and metered rows are never deleted.

CREATE TABLE usage_logs (
    node_id               uuid NOT NULL,
    epoch                 uuid NOT NULL,
    seq                   bigint NOT NULL CHECK (seq >= 0),
    ordinal               int NOT NULL CHECK (ordinal >= 0),
    occurred_at           timestamptz NOT NULL,
    request_id            uuid NOT NULL,
    key_meter_id          bigint NOT NULL,
    subscription_meter_id bigint NOT NULL,
    product_meter_id      bigint NOT NULL,
    endpoint_meter_id     bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    method                text NOT NULL CHECK (length(method) BETWEEN 1 AND 32),
    status                smallint NOT NULL CHECK (status BETWEEN 100 AND 599),
    verdict               text NOT NULL CHECK (verdict ~ '^[a-z][a-z0-9_]{0,63}$'),
    failed_by             text CHECK (failed_by IN ('gateway', 'upstream', 'client')),
    request_bytes         bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes        bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us            bigint NOT NULL CHECK (latency_us >= 0),
    upstream_latency_us   bigint CHECK (upstream_latency_us >= 0),
    upstream_contacted    boolean NOT NULL,
    billable              boolean NOT NULL,
    -- The batch's place is unique without the time; the time is here because it is the partition key.
    PRIMARY KEY (node_id, epoch, seq, ordinal, occurred_at),
    CONSTRAINT usage_logs_only_admitted_is_billable CHECK (NOT billable OR verdict = 'admitted')
) PARTITION BY RANGE (occurred_at);
COMMENT ON COLUMN usage_logs.seq IS 'The batch within the node''s epoch; ordinal is the record within the batch.';
COMMENT ON COLUMN usage_logs.verdict IS '''admitted'', or the code of the rejection.';
COMMENT ON COLUMN usage_logs.failed_by IS 'Null when the answer is the upstream''s own.';
CREATE INDEX usage_logs_subscription ON usage_logs (subscription_meter_id, occurred_at DESC);
CREATE INDEX usage_logs_product ON usage_logs (product_meter_id, occurred_at DESC);
CREATE INDEX usage_logs_request ON usage_logs (request_id);
-- Takes what no day's partition covers, so that a late job or a skewed clock loses nothing.
CREATE TABLE usage_logs_default PARTITION OF usage_logs DEFAULT;

-- The primary key begins with the subscription and the time: that is how dashboards and quotas read it. product follows from the
-- subscription. fillfactor leaves room for updates in place: the same minute is added to many times.
CREATE TABLE usage_minutes (
    subscription_meter_id bigint NOT NULL,
    minute                timestamptz NOT NULL CHECK (date_bin('1 minute', minute, timestamptz '2000-01-01 00:00:00+00') = minute),
    key_meter_id          bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    endpoint_meter_id     bigint NOT NULL,
    status_class          smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    product_meter_id      bigint NOT NULL,
    request_count         bigint NOT NULL CHECK (request_count >= 0),
    admitted_count        bigint NOT NULL CHECK (admitted_count BETWEEN 0 AND request_count),
    failed_count          bigint NOT NULL CHECK (failed_count BETWEEN 0 AND admitted_count),
    billable_count        bigint NOT NULL CHECK (billable_count BETWEEN 0 AND admitted_count),
    request_bytes         bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes        bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us_sum        bigint NOT NULL CHECK (latency_us_sum >= 0),
    PRIMARY KEY (subscription_meter_id, minute, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) PARTITION BY RANGE (minute);
COMMENT ON COLUMN usage_minutes.admitted_count IS 'What counts against the quota, before the credit for failed_count.';
COMMENT ON COLUMN usage_minutes.failed_count IS 'Admitted, but answered by an error of the gateway''s own making.';
CREATE INDEX usage_minutes_product ON usage_minutes (product_meter_id, minute);
CREATE TABLE usage_minutes_default PARTITION OF usage_minutes DEFAULT WITH (fillfactor = 70);

CREATE TABLE usage_hours (
    subscription_meter_id bigint NOT NULL,
    hour                  timestamptz NOT NULL CHECK (date_bin('1 hour', hour, timestamptz '2000-01-01 00:00:00+00') = hour),
    key_meter_id          bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    endpoint_meter_id     bigint NOT NULL,
    status_class          smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    product_meter_id      bigint NOT NULL,
    request_count         bigint NOT NULL CHECK (request_count >= 0),
    admitted_count        bigint NOT NULL CHECK (admitted_count BETWEEN 0 AND request_count),
    failed_count          bigint NOT NULL CHECK (failed_count BETWEEN 0 AND admitted_count),
    billable_count        bigint NOT NULL CHECK (billable_count BETWEEN 0 AND admitted_count),
    request_bytes         bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes        bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us_sum        bigint NOT NULL CHECK (latency_us_sum >= 0),
    PRIMARY KEY (subscription_meter_id, hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) WITH (fillfactor = 70);
CREATE INDEX usage_hours_product ON usage_hours (product_meter_id, hour);

CREATE TABLE usage_days (
    subscription_meter_id bigint NOT NULL,
    day                   date NOT NULL,
    key_meter_id          bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    endpoint_meter_id     bigint NOT NULL,
    status_class          smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    product_meter_id      bigint NOT NULL,
    request_count         bigint NOT NULL CHECK (request_count >= 0),
    admitted_count        bigint NOT NULL CHECK (admitted_count BETWEEN 0 AND request_count),
    failed_count          bigint NOT NULL CHECK (failed_count BETWEEN 0 AND admitted_count),
    billable_count        bigint NOT NULL CHECK (billable_count BETWEEN 0 AND admitted_count),
    request_bytes         bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes        bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us_sum        bigint NOT NULL CHECK (latency_us_sum >= 0),
    PRIMARY KEY (subscription_meter_id, day, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) WITH (fillfactor = 70);
COMMENT ON COLUMN usage_days.day IS 'In UTC; for charts only. Invoices are cut from usage_quarter_hours in the publisher''s zone.';
CREATE INDEX usage_days_product ON usage_days (product_meter_id, day);

-- The billing record: quarters of an hour, because every time zone in use begins its day on one.
CREATE TABLE usage_quarter_hours (
    subscription_meter_id bigint NOT NULL,
    quarter_hour          timestamptz NOT NULL
                          CHECK (date_bin('15 minutes', quarter_hour, timestamptz '2000-01-01 00:00:00+00') = quarter_hour),
    key_meter_id          bigint NOT NULL,
    plan_meter_id         bigint NOT NULL,
    endpoint_meter_id     bigint NOT NULL,
    status_class          smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    product_meter_id      bigint NOT NULL,
    request_count         bigint NOT NULL CHECK (request_count >= 0),
    admitted_count        bigint NOT NULL CHECK (admitted_count BETWEEN 0 AND request_count),
    failed_count          bigint NOT NULL CHECK (failed_count BETWEEN 0 AND admitted_count),
    billable_count        bigint NOT NULL CHECK (billable_count BETWEEN 0 AND admitted_count),
    request_bytes         bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes        bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us_sum        bigint NOT NULL CHECK (latency_us_sum >= 0),
    PRIMARY KEY (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) WITH (fillfactor = 70);
CREATE INDEX usage_quarter_hours_product ON usage_quarter_hours (product_meter_id, quarter_hour);

-- Makes the daily partitions (UTC) of usage_logs and usage_minutes for `days` days from `from_day`, and answers how many are new.
-- Rows that already fell into a default partition move into the new one. Any number of control planes may call it. A transaction that
-- writes both tables writes usage_logs first, as this does.
CREATE FUNCTION ensure_usage_partitions(from_day date, days int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    parent      text;
    time_column text;
    partition   text;
    lower_bound timestamptz;
    upper_bound timestamptz;
    made        int := 0;
BEGIN
    IF from_day IS NULL OR days IS NULL OR days NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'days must be from 0 to 400' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ensure_usage_partitions', 0));
    FOR parent, time_column IN VALUES ('usage_logs', 'occurred_at'), ('usage_minutes', 'minute') LOOP
        FOR offset_days IN 0 .. days - 1 LOOP
            partition := parent || '_p' || to_char(from_day + offset_days, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            lower_bound := (from_day + offset_days)::timestamp AT TIME ZONE 'UTC';
            upper_bound := (from_day + offset_days + 1)::timestamp AT TIME ZONE 'UTC';
            -- Inserts wait here rather than fail: one that had already chosen the default partition for this day would be refused.
            -- Parent before default is the order in which an insert takes its locks.
            EXECUTE format('LOCK TABLE ONLY %I IN SHARE ROW EXCLUSIVE MODE', parent);
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = %s)',
                partition, parent, CASE parent WHEN 'usage_minutes' THEN 70 ELSE 100 END);
            EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                parent || '_default', time_column, lower_bound, time_column, upper_bound, partition);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, partition, lower_bound, upper_bound);
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

-- Drops the partitions of `parent` (usage_logs or usage_minutes) that end on or before `before_day` (UTC), with what is as old in
-- its default partition, and answers how many it dropped.
CREATE FUNCTION drop_usage_partitions(parent text, before_day date) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    time_column text := CASE parent WHEN 'usage_logs' THEN 'occurred_at' WHEN 'usage_minutes' THEN 'minute' END;
    partition   text;
    dropped     int := 0;
BEGIN
    IF time_column IS NULL OR before_day IS NULL THEN
        RAISE EXCEPTION 'no retention for %', parent USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ensure_usage_partitions', 0));
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass AND c.relname ~ ('^' || parent || '_p[0-9]{8}$')
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < before_day
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', partition);
        dropped := dropped + 1;
    END LOOP;
    EXECUTE format('DELETE FROM %I WHERE %I < %L', parent || '_default', time_column, before_day::timestamp AT TIME ZONE 'UTC');
    RETURN dropped;
END $$;

-- One row per batch that has been counted, written in the same transaction as its rows: this is what makes redelivery harmless.
CREATE TABLE ingested_batches (
    node_id     uuid NOT NULL,
    epoch       uuid NOT NULL,
    seq         bigint NOT NULL CHECK (seq >= 0),
    events      bigint NOT NULL CHECK (events >= 0),
    ingested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node_id, epoch, seq)
);
CREATE INDEX ingested_batches_age ON ingested_batches (ingested_at);

-- What is known of a node's epoch as a whole. Batches up to contiguous_seq are all counted, also after their rows were pruned.
CREATE TABLE ingest_watermarks (
    node_id        uuid NOT NULL,
    epoch          uuid NOT NULL,
    contiguous_seq bigint NOT NULL DEFAULT -1 CHECK (contiguous_seq >= -1),
    low_watermark  timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (node_id, epoch)
);
COMMENT ON COLUMN ingest_watermarks.low_watermark IS 'No event older than this comes in a later batch.';

-- Stream entries that could not be read: kept whole and shown, never dropped.
CREATE TABLE ingest_failures (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id   text NOT NULL UNIQUE CHECK (length(stream_id) BETWEEN 1 AND 255),
    reason      text NOT NULL CHECK (length(reason) BETWEEN 1 AND 2000),
    payload     bytea NOT NULL CHECK (octet_length(payload) <= 67108864),
    received_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN ingest_failures.stream_id IS 'Stream name and entry id, so that a redelivery is stored once.';
