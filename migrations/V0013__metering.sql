-- Metering: counts by consumer in every grain, and by product with latencies; the marks from which hours and days are made anew; what is
-- known of each producer; the audit of it all; and the background jobs' memory.
-- Nothing has written these four until now; they get their final shapes. The billing record is filled from the minutes below.
DROP TABLE usage_quarter_hours, usage_hours, usage_days, background_jobs;

ALTER TABLE usage_minutes
    ADD COLUMN limited_count bigint NOT NULL DEFAULT 0 CHECK (limited_count BETWEEN 0 AND request_count),
    ADD COLUMN upstream_latency_us_sum bigint NOT NULL DEFAULT 0 CHECK (upstream_latency_us_sum >= 0);
COMMENT ON COLUMN usage_minutes.limited_count IS 'Refused with 429: too fast, or the quota used up.';

-- The billing record: quarters of an hour, because every time zone in use begins its day on one. Added to in the transaction that counts a
-- batch, and nowhere else.
CREATE TABLE usage_quarter_hours (
    subscription_meter_id   bigint NOT NULL,
    quarter_hour            timestamptz NOT NULL
                            CHECK (date_bin('15 minutes', quarter_hour, timestamptz '2000-01-01 00:00:00+00') = quarter_hour),
    key_meter_id            bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    status_class            smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    product_meter_id        bigint NOT NULL,
    request_count           bigint NOT NULL CHECK (request_count >= 0),
    admitted_count          bigint NOT NULL CHECK (admitted_count BETWEEN 0 AND request_count),
    failed_count            bigint NOT NULL CHECK (failed_count BETWEEN 0 AND admitted_count),
    limited_count           bigint NOT NULL CHECK (limited_count BETWEEN 0 AND request_count),
    billable_count          bigint NOT NULL CHECK (billable_count BETWEEN 0 AND admitted_count),
    request_bytes           bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes          bigint NOT NULL CHECK (response_bytes >= 0),
    latency_us_sum          bigint NOT NULL CHECK (latency_us_sum >= 0),
    upstream_latency_us_sum bigint NOT NULL CHECK (upstream_latency_us_sum >= 0),
    PRIMARY KEY (subscription_meter_id, quarter_hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) PARTITION BY RANGE (quarter_hour);
CREATE INDEX usage_quarter_hours_time ON usage_quarter_hours USING brin (quarter_hour) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE usage_quarter_hours_default PARTITION OF usage_quarter_hours DEFAULT WITH (fillfactor = 70);

-- Hours and days are made anew from the finer rollup, never added to: a mark in usage_dirty says which.
CREATE TABLE usage_hours (
    subscription_meter_id   bigint NOT NULL,
    hour                    timestamptz NOT NULL CHECK (date_bin('1 hour', hour, timestamptz '2000-01-01 00:00:00+00') = hour),
    key_meter_id            bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    status_class            smallint NOT NULL,
    product_meter_id        bigint NOT NULL,
    request_count           bigint NOT NULL,
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    PRIMARY KEY (subscription_meter_id, hour, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) PARTITION BY RANGE (hour);
CREATE INDEX usage_hours_product ON usage_hours (product_meter_id, hour);
CREATE INDEX usage_hours_time ON usage_hours USING brin (hour) WITH (pages_per_range = 32, autosummarize = on);
CREATE TABLE usage_hours_default PARTITION OF usage_hours DEFAULT WITH (fillfactor = 70);

CREATE TABLE usage_days (
    subscription_meter_id   bigint NOT NULL,
    day                     date NOT NULL,
    key_meter_id            bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    status_class            smallint NOT NULL,
    product_meter_id        bigint NOT NULL,
    request_count           bigint NOT NULL,
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    PRIMARY KEY (subscription_meter_id, day, key_meter_id, plan_meter_id, endpoint_meter_id, status_class)
) WITH (fillfactor = 70);
COMMENT ON COLUMN usage_days.day IS 'In UTC; for charts only. Invoices are cut from usage_quarter_hours in the publisher''s zone.';
CREATE INDEX usage_days_product ON usage_days (product_meter_id, day);
CREATE INDEX usage_days_time ON usage_days USING brin (day) WITH (pages_per_range = 32, autosummarize = on);

-- Whole subscriptions by day, for top lists over thousands of them.
CREATE TABLE usage_subscription_days (
    product_meter_id        bigint NOT NULL,
    day                     date NOT NULL,
    subscription_meter_id   bigint NOT NULL,
    request_count           bigint NOT NULL,
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    client_error_count      bigint NOT NULL,
    server_error_count      bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    PRIMARY KEY (product_meter_id, day, subscription_meter_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN usage_subscription_days.client_error_count IS 'Status 400 to 499, limited_count among them; server_error_count: 500 to 599.';
CREATE INDEX usage_subscription_days_time ON usage_subscription_days (day);

-- By product, whoever called: few rows, with a histogram of the latency in 20 buckets.
CREATE TABLE usage_product_minutes (
    product_meter_id        bigint NOT NULL,
    minute                  timestamptz NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    status_class            smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    request_count           bigint NOT NULL CHECK (request_count >= 0),
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    latency_histogram       bigint[] NOT NULL CHECK (cardinality(latency_histogram) = 20),
    PRIMARY KEY (product_meter_id, minute, endpoint_meter_id, plan_meter_id, status_class)
) PARTITION BY RANGE (minute);
COMMENT ON COLUMN usage_product_minutes.latency_histogram IS
    'Requests by latency: element n counts those of at most 250 * 2^(n-1) microseconds and more than the element before; the 20th the rest.';
CREATE TABLE usage_product_minutes_default PARTITION OF usage_product_minutes DEFAULT WITH (fillfactor = 70);

CREATE TABLE usage_product_quarter_hours (
    product_meter_id        bigint NOT NULL,
    quarter_hour            timestamptz NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    status_class            smallint NOT NULL CHECK (status_class BETWEEN 1 AND 5),
    request_count           bigint NOT NULL CHECK (request_count >= 0),
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    latency_histogram       bigint[] NOT NULL CHECK (cardinality(latency_histogram) = 20),
    PRIMARY KEY (product_meter_id, quarter_hour, endpoint_meter_id, plan_meter_id, status_class)
) PARTITION BY RANGE (quarter_hour);
CREATE TABLE usage_product_quarter_hours_default PARTITION OF usage_product_quarter_hours DEFAULT WITH (fillfactor = 70);

CREATE TABLE usage_product_hours (
    product_meter_id        bigint NOT NULL,
    hour                    timestamptz NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    status_class            smallint NOT NULL,
    request_count           bigint NOT NULL,
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    latency_histogram       bigint[] NOT NULL CHECK (cardinality(latency_histogram) = 20),
    PRIMARY KEY (product_meter_id, hour, endpoint_meter_id, plan_meter_id, status_class)
) PARTITION BY RANGE (hour);
CREATE INDEX usage_product_hours_time ON usage_product_hours (hour);
CREATE TABLE usage_product_hours_default PARTITION OF usage_product_hours DEFAULT WITH (fillfactor = 70);

CREATE TABLE usage_product_days (
    product_meter_id        bigint NOT NULL,
    day                     date NOT NULL,
    endpoint_meter_id       bigint NOT NULL,
    plan_meter_id           bigint NOT NULL,
    status_class            smallint NOT NULL,
    request_count           bigint NOT NULL,
    admitted_count          bigint NOT NULL,
    failed_count            bigint NOT NULL,
    limited_count           bigint NOT NULL,
    billable_count          bigint NOT NULL,
    request_bytes           bigint NOT NULL,
    response_bytes          bigint NOT NULL,
    latency_us_sum          bigint NOT NULL,
    upstream_latency_us_sum bigint NOT NULL,
    latency_histogram       bigint[] NOT NULL CHECK (cardinality(latency_histogram) = 20),
    PRIMARY KEY (product_meter_id, day, endpoint_meter_id, plan_meter_id, status_class)
) WITH (fillfactor = 70);
CREATE INDEX usage_product_days_time ON usage_product_days (day);

-- What hours and days must take in, appended in the transaction that counted it. A mark is deleted with the work that it asks for; nobody
-- updates one, so a merge that has not committed yet cannot lose its mark to a roll-up that runs beside it.
CREATE TABLE usage_dirty (
    id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_meter_id bigint NOT NULL,
    product_meter_id      bigint NOT NULL,
    key_meter_id          bigint NOT NULL,
    hour                  timestamptz NOT NULL,
    used_at               timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
COMMENT ON COLUMN usage_dirty.used_at IS 'The youngest request of the key in that hour, for api_keys.last_used_at.';

-- The bucket of a latency, 1 to 20, as in latency_histogram.
CREATE FUNCTION latency_bucket(latency_us bigint) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN latency_us <= 250 THEN 1 ELSE least(20, ceil(log(2, latency_us / 250.0))::int + 1) END
$$;

-- What each batch told beside its events.
ALTER TABLE ingested_batches
    ADD COLUMN low_watermark timestamptz,
    ADD COLUMN closes_epoch boolean NOT NULL DEFAULT false;

ALTER TABLE ingest_watermarks
    ADD COLUMN highest_seq bigint NOT NULL DEFAULT -1 CHECK (highest_seq >= -1),
    ADD COLUMN closing_seq bigint CHECK (closing_seq >= -1),
    ADD COLUMN events bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    ADD COLUMN skewed_events bigint NOT NULL DEFAULT 0 CHECK (skewed_events >= 0),
    ADD COLUMN first_batch_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN last_batch_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN written_off_at timestamptz,
    ADD COLUMN written_off_by uuid,
    ADD COLUMN write_off_reason text CHECK (length(write_off_reason) BETWEEN 1 AND 2000),
    ADD CONSTRAINT ingest_watermarks_written_off_whole
        CHECK ((written_off_at IS NULL) = (written_off_by IS NULL) AND (written_off_at IS NULL) = (write_off_reason IS NULL));
-- Epochs from before this schema told no watermark. Until they report again, they count as ended in order.
UPDATE ingest_watermarks w SET
    highest_seq = greatest(w.contiguous_seq, (SELECT max(seq) FROM ingested_batches b WHERE b.node_id = w.node_id AND b.epoch = w.epoch)),
    closing_seq = w.contiguous_seq, first_batch_at = w.updated_at, last_batch_at = w.updated_at;
ALTER TABLE ingest_watermarks ADD COLUMN is_closed boolean NOT NULL
    GENERATED ALWAYS AS (closing_seq IS NOT NULL AND contiguous_seq >= closing_seq AND highest_seq <= closing_seq) STORED;
COMMENT ON COLUMN ingest_watermarks.low_watermark IS 'As told by the batches up to contiguous_seq: no event older than this comes any more.';
COMMENT ON COLUMN ingest_watermarks.closing_seq IS 'The batch that called itself the last of its epoch.';
COMMENT ON COLUMN ingest_watermarks.events IS 'Counted in this epoch, as its batches say; ingested_days says the same by the events'' own days.';
COMMENT ON COLUMN ingest_watermarks.skewed_events IS 'Counted, but with a time that the clocks make unlikely.';
COMMENT ON COLUMN ingest_watermarks.written_off_at IS 'An operator gave up what this epoch has not sent; it holds no period back any more.';

-- Counted events by the UTC day they happened, from each producer: one side of the audit, kept apart from the rollups.
CREATE TABLE ingested_days (
    node_id uuid NOT NULL,
    epoch   uuid NOT NULL,
    day     date NOT NULL,
    events  bigint NOT NULL CHECK (events >= 0),
    PRIMARY KEY (node_id, epoch, day)
) WITH (fillfactor = 70);
CREATE INDEX ingested_days_day ON ingested_days (day);

-- The last comparison of each day. A difference is an error of ours, and no invoice of that day is final before it is understood.
CREATE TABLE usage_audits (
    day           date PRIMARY KEY,
    batches       bigint NOT NULL,
    quarter_hours bigint NOT NULL,
    hours         bigint NOT NULL,
    days          bigint NOT NULL,
    products      bigint NOT NULL,
    pending_marks bigint NOT NULL,
    checked_at    timestamptz NOT NULL DEFAULT now(),
    is_equal      boolean NOT NULL GENERATED ALWAYS AS (
        batches = quarter_hours AND (pending_marks > 0 OR (quarter_hours = hours AND hours = days AND quarter_hours = products))) STORED
);
COMMENT ON COLUMN usage_audits.batches IS 'Events of counted batches on that UTC day; the other columns are the same from each rollup.';
COMMENT ON COLUMN usage_audits.pending_marks IS 'Roll-ups that were still to be made: until then hours and days lag.';

-- One row per job, for operators, and as the fence that a run which lost its lease runs into.
CREATE TABLE background_jobs (
    name         text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 80),
    fence        bigint NOT NULL CHECK (fence >= 0),
    holder       text NOT NULL CHECK (length(holder) BETWEEN 1 AND 120),
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    succeeded_at timestamptz,
    duration_ms  bigint CHECK (duration_ms >= 0),
    error        text CHECK (length(error) <= 2000),
    runs         bigint NOT NULL DEFAULT 0,
    failures     bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN background_jobs.fence IS 'Grows with each run; a run writes here only while its own number is the newest.';
COMMENT ON COLUMN background_jobs.error IS 'Of the last run; null when it succeeded.';

ALTER TABLE ingest_failures
    ADD COLUMN times_received bigint NOT NULL DEFAULT 1,
    ADD COLUMN last_received_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN ingest_failures.stream_id IS 'Stream and what names the entry or event, so that a redelivery is stored once and counted.';
CREATE INDEX ingest_failures_age ON ingest_failures (last_received_at);

-- What is partitioned, by which column, in pieces of which size; in the order in which a merge writes them.
CREATE FUNCTION usage_partitioned(OUT parent text, OUT time_column text, OUT unit text, OUT fill int) RETURNS SETOF record
LANGUAGE sql IMMUTABLE AS $$
    VALUES ('usage_logs', 'occurred_at', 'day', 100),
           ('usage_minutes', 'minute', 'day', 70),
           ('usage_product_minutes', 'minute', 'day', 70),
           ('usage_quarter_hours', 'quarter_hour', 'month', 70),
           ('usage_product_quarter_hours', 'quarter_hour', 'month', 70),
           ('usage_hours', 'hour', 'month', 70),
           ('usage_product_hours', 'hour', 'month', 70)
$$;

-- Makes one table's partitions (UTC) for `days` days from `from_day`, and answers how many are new. Rows that already fell into the
-- default partition move into the new one. One table a transaction, so that nobody waits for two at a time.
CREATE FUNCTION ensure_partitions_of(parent_name text, from_day date, days int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan        record;
    piece       date;
    next_piece  date;
    partition   text;
    lower_bound timestamptz;
    upper_bound timestamptz;
    made        int := 0;
BEGIN
    SELECT * INTO plan FROM usage_partitioned() p WHERE p.parent = parent_name;
    IF plan IS NULL OR from_day IS NULL OR days IS NULL OR days NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'a partitioned table, and 0 to 400 days' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ensure_usage_partitions', 0));
    piece := date_trunc(plan.unit, from_day::timestamp)::date;
    WHILE piece < from_day + days LOOP
        next_piece := (piece + ('1 ' || plan.unit)::interval)::date;
        partition := parent_name || '_p' || to_char(piece, 'YYYYMMDD');
        IF to_regclass(partition) IS NULL THEN
            lower_bound := piece::timestamp AT TIME ZONE 'UTC';
            upper_bound := next_piece::timestamp AT TIME ZONE 'UTC';
            -- Inserts wait here rather than fail: one that had already chosen the default partition would be refused. Parent before
            -- default is the order in which an insert takes its locks.
            EXECUTE format('LOCK TABLE ONLY %I IN SHARE ROW EXCLUSIVE MODE', parent_name);
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent_name || '_default');
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = %s)',
                partition, parent_name, plan.fill);
            EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                parent_name || '_default', plan.time_column, lower_bound, plan.time_column, upper_bound, partition);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent_name, partition, lower_bound, upper_bound);
            made := made + 1;
        END IF;
        piece := next_piece;
    END LOOP;
    RETURN made;
END $$;

-- All of them; what a control plane of before this schema calls.
CREATE OR REPLACE FUNCTION ensure_usage_partitions(from_day date, days int) RETURNS int LANGUAGE sql AS $$
    SELECT sum(ensure_partitions_of(p.parent, from_day, days))::int FROM usage_partitioned() p
$$;

-- Gives the rows in a default partition that lie in these days a partition of their own; `pieces_max` partitions at most.
CREATE FUNCTION drain_default_partition(parent_name text, from_day date, before_day date, pieces_max int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan  record;
    piece date;
    made  int := 0;
BEGIN
    SELECT * INTO plan FROM usage_partitioned() p WHERE p.parent = parent_name;
    FOR piece IN EXECUTE format(
        'SELECT DISTINCT date_trunc(%L, %I AT TIME ZONE ''UTC'')::date FROM %I WHERE %I >= $1 AND %I < $2 ORDER BY 1 LIMIT $3',
        plan.unit, plan.time_column, parent_name || '_default', plan.time_column, plan.time_column)
        USING from_day::timestamp AT TIME ZONE 'UTC', before_day::timestamp AT TIME ZONE 'UTC', pieces_max
    LOOP
        made := made + ensure_partitions_of(parent_name, piece, 1);
    END LOOP;
    RETURN made;
END $$;

-- Drops a table's partitions that end on or before `before_day` (UTC), with what is as old in its default partition, and answers how many
-- it dropped. The billing record stays as long as something is to be rolled up from those days.
CREATE OR REPLACE FUNCTION drop_usage_partitions(parent text, before_day date) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan      record;
    partition text;
    dropped   int := 0;
BEGIN
    SELECT * INTO plan FROM usage_partitioned() p WHERE p.parent = drop_usage_partitions.parent;
    IF plan IS NULL OR before_day IS NULL THEN
        RAISE EXCEPTION 'no retention for %', parent USING ERRCODE = '22023';
    END IF;
    IF plan.unit = 'month' AND EXISTS (SELECT FROM usage_dirty WHERE hour < before_day::timestamp AT TIME ZONE 'UTC') THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ensure_usage_partitions', 0));
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent::regclass AND c.relname ~ ('^' || parent || '_p[0-9]{8}$')
          AND to_date(right(c.relname, 8), 'YYYYMMDD') + ('1 ' || plan.unit)::interval <= before_day::timestamp
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', partition);
        dropped := dropped + 1;
    END LOOP;
    EXECUTE format('DELETE FROM %I WHERE %I < %L', parent || '_default', plan.time_column, before_day::timestamp AT TIME ZONE 'UTC');
    RETURN dropped;
END $$;

-- From yesterday on, so that what comes late around a midnight finds its day.
SELECT ensure_usage_partitions((now() AT TIME ZONE 'UTC')::date - 1, 9);

-- What was counted before there was a billing record. Its latencies are known as sums only: each minute counts with its mean.
INSERT INTO usage_quarter_hours
SELECT subscription_meter_id, date_bin('15 minutes', minute, timestamptz '2000-01-01 00:00:00+00'), key_meter_id, plan_meter_id,
    endpoint_meter_id, status_class, min(product_meter_id), sum(request_count), sum(admitted_count), sum(failed_count), sum(limited_count),
    sum(billable_count), sum(request_bytes), sum(response_bytes), sum(latency_us_sum), sum(upstream_latency_us_sum)
FROM usage_minutes GROUP BY 1, 2, 3, 4, 5, 6;
INSERT INTO usage_product_minutes
SELECT m.product_meter_id, m.minute, m.endpoint_meter_id, m.plan_meter_id, m.status_class, sum(m.request_count), sum(m.admitted_count),
    sum(m.failed_count), sum(m.limited_count), sum(m.billable_count), sum(m.request_bytes), sum(m.response_bytes), sum(m.latency_us_sum),
    sum(m.upstream_latency_us_sum),
    (SELECT array_agg(CASE WHEN n = latency_bucket((sum(m.latency_us_sum) / greatest(sum(m.request_count), 1))::bigint)
        THEN sum(m.request_count)::bigint ELSE 0 END ORDER BY n) FROM generate_series(1, 20) n)
FROM usage_minutes m GROUP BY 1, 2, 3, 4, 5;
INSERT INTO usage_product_quarter_hours
SELECT product_meter_id, date_bin('15 minutes', minute, timestamptz '2000-01-01 00:00:00+00'), endpoint_meter_id, plan_meter_id,
    status_class, sum(request_count), sum(admitted_count), sum(failed_count), sum(limited_count), sum(billable_count), sum(request_bytes),
    sum(response_bytes), sum(latency_us_sum), sum(upstream_latency_us_sum), ARRAY[sum(latency_histogram[1]), sum(latency_histogram[2]),
    sum(latency_histogram[3]), sum(latency_histogram[4]), sum(latency_histogram[5]), sum(latency_histogram[6]), sum(latency_histogram[7]),
    sum(latency_histogram[8]), sum(latency_histogram[9]), sum(latency_histogram[10]), sum(latency_histogram[11]),
    sum(latency_histogram[12]), sum(latency_histogram[13]), sum(latency_histogram[14]), sum(latency_histogram[15]),
    sum(latency_histogram[16]), sum(latency_histogram[17]), sum(latency_histogram[18]), sum(latency_histogram[19]),
    sum(latency_histogram[20])]::bigint[]
FROM usage_product_minutes GROUP BY 1, 2, 3, 4, 5;
INSERT INTO usage_dirty (subscription_meter_id, product_meter_id, key_meter_id, hour, used_at)
SELECT subscription_meter_id, min(product_meter_id), key_meter_id, date_trunc('hour', quarter_hour, 'UTC'), max(quarter_hour)
FROM usage_quarter_hours GROUP BY 1, 3, 4;
-- Of no producer in particular: batches of that time did not say which days they held.
INSERT INTO ingested_days (node_id, epoch, day, events)
SELECT '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', (quarter_hour AT TIME ZONE 'UTC')::date,
    sum(request_count) FROM usage_quarter_hours GROUP BY 3;
