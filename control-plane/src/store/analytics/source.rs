//! Which rollup answers a question, and the conditions that bind it to whose usage is looked at. By product where no single
//! consumer is asked for (few rows, with latencies); else by subscription and key.

use jiff::Timestamp;
use uuid::Uuid;

use super::compose::Composed;
use crate::domain::analytics::sums::BUCKETS;
use crate::domain::analytics::{Filter, GroupBy, Scope, Step, Window};

/// The two families of rollups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Products,
    Consumers,
}

/// Whose usage, of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) scope: Scope,
    pub(super) filter: Filter,
}

/// What a statement is to answer: whose usage, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) bound: Bound,
    pub(super) window: &'a Window,
    /// From here on hours may still be made anew; they are read from the finer rollup, which a batch writes itself.
    pub(super) fresh_from: Timestamp,
}

/// A part of the time and the table that has it.
pub(super) struct Segment {
    table: &'static str,
    /// The column of its time.
    time: &'static str,
    from: Timestamp,
    to: Timestamp,
    /// The point that a row belongs to.
    bucket: Bucket,
}

enum Bucket {
    /// The time itself.
    Same,
    Hour,
    UtcDay,
    DayIn(String),
}

impl Bound {
    pub(super) fn family(&self, group: Option<GroupBy>) -> Family {
        let is_of_consumers = matches!(group, Some(GroupBy::Subscription | GroupBy::Key)) || self.filter.key.is_some();
        if is_of_consumers || self.reaches_by_subscription() { Family::Consumers } else { Family::Products }
    }

    /// Whether the subscriptions are few enough to be looked up one by one.
    pub(super) fn reaches_by_subscription(&self) -> bool {
        matches!(self.scope, Scope::Consumer(_)) || self.filter.subscription.is_some()
    }

    /// Whether thousands of subscriptions may have to be told apart.
    pub(super) fn is_over_many(&self, group: Option<GroupBy>) -> bool {
        group == Some(GroupBy::Subscription) && !self.reaches_by_subscription()
    }

    /// Nothing but whole products and subscriptions is asked for.
    pub(super) fn is_coarse(&self) -> bool {
        let Filter { endpoint, plan, key, status_class, .. } = self.filter;
        endpoint.is_none() && plan.is_none() && key.is_none() && status_class.is_none()
    }

    /// The conditions on a row `r` of a rollup, without its time.
    pub(super) fn push_conditions(&self, q: &mut Composed) {
        self.push_reach(q, "r");
        self.push_fine_conditions(q);
    }

    /// Without tenancy: for groups that were found within it.
    pub(super) fn push_fine_conditions(&self, q: &mut Composed) {
        let Filter { endpoint, plan, key, status_class, .. } = self.filter;
        let mut narrow = |column: &str, table: &str, id: Uuid| {
            let place = q.bind(id);
            q.push(&format!(" AND r.{column} = (SELECT f.meter_id FROM {table} f WHERE f.id = {place})"));
        };
        endpoint.into_iter().for_each(|id| narrow("endpoint_meter_id", "endpoints", id));
        plan.into_iter().for_each(|id| narrow("plan_meter_id", "plans", id));
        key.into_iter().for_each(|id| narrow("key_meter_id", "api_keys", id));
        if let Some(class) = status_class {
            let place = q.bind(class.0);
            q.push(&format!(" AND r.status_class = {place}"));
        }
    }

    /// Tenancy: the products or subscriptions that may be looked at, by meter id, of a table `of` that has these columns.
    pub(super) fn push_reach(&self, q: &mut Composed, of: &str) {
        match self.reaches_by_subscription() {
            true => {
                q.push(&format!(" AND {of}.subscription_meter_id = ANY("));
                self.push_subscriptions(q);
                q.push(")");
            }
            false if self.is_bound_to_products() => {
                q.push(&format!(" AND {of}.product_meter_id = ANY("));
                self.push_products(q);
                q.push(")");
            }
            false => {}
        }
    }

    /// Whether some products are meant, and not all.
    pub(super) fn is_bound_to_products(&self) -> bool {
        matches!(self.scope, Scope::Publisher(_)) || self.filter.product.is_some()
    }

    /// An array of meter ids.
    pub(super) fn push_products(&self, q: &mut Composed) {
        q.push("ARRAY(SELECT p.meter_id FROM api_products p WHERE true");
        if let Scope::Publisher(organization) = self.scope {
            let place = q.bind(organization);
            q.push(&format!(" AND p.organization_id = {place}"));
        }
        if let Some(product) = self.filter.product {
            let place = q.bind(product);
            q.push(&format!(" AND p.id = {place}"));
        }
        q.push(")");
    }

    /// An array of meter ids.
    pub(super) fn push_subscriptions(&self, q: &mut Composed) {
        q.push("ARRAY(SELECT s.meter_id FROM subscriptions s JOIN api_products p ON p.id = s.product_id WHERE true");
        self.push_subscription_conditions(q);
        q.push(")");
    }

    /// Conditions on a subscription `s` and its product `p`.
    pub(super) fn push_subscription_conditions(&self, q: &mut Composed) {
        let mut narrow = |column: &str, id: Uuid| {
            let place = q.bind(id);
            q.push(&format!(" AND {column} = {place}"));
        };
        match self.scope {
            Scope::Platform => {}
            Scope::Publisher(organization) => narrow("p.organization_id", organization),
            Scope::Consumer(organization) => narrow("s.organization_id", organization),
        }
        self.filter.product.into_iter().for_each(|id| narrow("p.id", id));
        self.filter.subscription.into_iter().for_each(|id| narrow("s.id", id));
    }
}

/// The column that names the group, of a row `r`.
pub(super) fn group_column(group: Option<GroupBy>) -> &'static str {
    match group {
        None => "NULL::bigint",
        Some(GroupBy::Product) => "r.product_meter_id",
        Some(GroupBy::Endpoint) => "r.endpoint_meter_id",
        Some(GroupBy::Plan) => "r.plan_meter_id",
        Some(GroupBy::Subscription) => "r.subscription_meter_id",
        Some(GroupBy::Key) => "r.key_meter_id",
        Some(GroupBy::StatusClass) => "r.status_class::bigint",
    }
}

/// The tables that together hold the window, each the coarsest that does.
pub(super) fn segments(family: Family, question: &Question<'_>) -> Vec<Segment> {
    let Question { window, fresh_from, .. } = *question;
    let (from, to) = (window.from, window.to);
    let (minutes, quarters, hours, days) = match family {
        Family::Products => {
            ("usage_product_minutes", "usage_product_quarter_hours", "usage_product_hours", "usage_product_days")
        }
        Family::Consumers => ("usage_minutes", "usage_quarter_hours", "usage_hours", "usage_days"),
    };
    let day_in_zone = || Bucket::DayIn(window.zone.name.clone());
    let split = |of_hours: Bucket, of_quarters: Bucket| {
        let cut = fresh_from.clamp(from, to);
        let old = Segment { table: hours, time: "hour", from, to: cut, bucket: of_hours };
        let new = Segment { table: quarters, time: "quarter_hour", from: cut, to, bucket: of_quarters };
        [old, new].into_iter().filter(|part| part.from < part.to).collect()
    };
    match window.step {
        Step::Minute => vec![Segment { table: minutes, time: "minute", from, to, bucket: Bucket::Same }],
        Step::QuarterHour => vec![Segment { table: quarters, time: "quarter_hour", from, to, bucket: Bucket::Same }],
        Step::Hour => split(Bucket::Same, Bucket::Hour),
        Step::Day if window.zone.is_utc() => {
            vec![Segment { table: days, time: "day", from, to, bucket: Bucket::UtcDay }]
        }
        Step::Day if window.zone.has_whole_hours(from, to) => split(day_in_zone(), day_in_zone()),
        Step::Day => vec![Segment { table: quarters, time: "quarter_hour", from, to, bucket: day_in_zone() }],
    }
}

impl Segment {
    /// `FROM … WHERE` with its time; conditions follow.
    pub(super) fn push_from(&self, q: &mut Composed) {
        let (from, to) = (q.bind(self.from), q.bind(self.to));
        let (table, time) = (self.table, self.time);
        q.push(&match self.bucket {
            Bucket::UtcDay => format!(
                " FROM {table} r WHERE r.day >= ({from}::timestamptz AT TIME ZONE 'UTC')::date \
                 AND r.day < ({to}::timestamptz AT TIME ZONE 'UTC')::date"
            ),
            _ => format!(" FROM {table} r WHERE r.{time} >= {from} AND r.{time} < {to}"),
        });
    }

    /// The point that a row belongs to.
    pub(super) fn push_bucket(&self, q: &mut Composed) {
        let time = self.time;
        let bucket = match &self.bucket {
            Bucket::Same => format!("r.{time}"),
            Bucket::Hour => format!("date_bin('1 hour', r.{time}, timestamptz '2000-01-01 00:00:00+00')"),
            Bucket::UtcDay => "r.day::timestamp AT TIME ZONE 'UTC'".to_owned(),
            Bucket::DayIn(zone) => {
                let place = q.bind(zone.clone());
                format!("date_trunc('day', r.{time}, {place}::text)")
            }
        };
        q.push(&bucket);
    }
}

/// Sums over rows of a rollup, in the order in which `read_sums` reads them. Added up as floats, which hold whole numbers exactly up
/// to 2^53 and cost a fraction of what Postgres needs to add 64-bit integers, above all in memory.
pub(super) fn sums_of_rows(family: Family) -> String {
    let plain = [
        ("request_count", "requests"),
        ("admitted_count", "admitted"),
        ("failed_count", "failed"),
        ("limited_count", "rate_limited"),
        ("unpaid_count", "payment_required"),
        ("billable_count", "billable"),
        ("request_bytes", "request_bytes"),
        ("response_bytes", "response_bytes"),
        ("latency_us_sum", "latency_us"),
        ("upstream_latency_us_sum", "upstream_latency_us"),
    ];
    let plain = plain.map(|(column, name)| format!("sum(r.{column}::float8)::bigint AS {name}")).join(", ");
    let of_class = |class: u8, name: &str| {
        format!("coalesce(sum(r.request_count::float8) FILTER (WHERE r.status_class = {class}), 0)::bigint AS {name}")
    };
    let (client_errors, errors) = (of_class(4, "client_errors"), of_class(5, "errors"));
    let histogram = match family {
        Family::Products => {
            // Element by element, which is much cheaper than to unnest.
            let elements = (1..=BUCKETS).map(|bucket| format!("sum(r.latency_histogram[{bucket}]::float8)::bigint"));
            format!("ARRAY[{}]", elements.collect::<Vec<_>>().join(", "))
        }
        Family::Consumers => "'{}'::bigint[]".to_owned(),
    };
    format!("{plain}, {client_errors}, {errors}, {histogram} AS histogram")
}
