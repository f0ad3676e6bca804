//! The one place that says whether a request costs money. Pure; knows no price.

use super::{Kind, Outcome};

/// Status classes that a plan charges for: bit n stands for class n, 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillableClasses(u8);

impl Default for BillableClasses {
    /// Successful answers.
    fn default() -> Self {
        BillableClasses(1 << 2)
    }
}

impl BillableClasses {
    /// From texts like `2xx`; others are not stored.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> BillableClasses {
        let bits = texts.into_iter().filter_map(|text| match text {
            "1xx" => Some(1 << 1),
            "2xx" => Some(1 << 2),
            "3xx" => Some(1 << 3),
            "4xx" => Some(1 << 4),
            "5xx" => Some(1 << 5),
            _ => None,
        });
        BillableClasses(bits.fold(0, |all, bit| all | bit))
    }

    fn contains(self, class: i16) -> bool {
        (1..=5).contains(&class) && self.0 & (1 << class) != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What the upstream answered is charged by the plan's classes. A client that left is charged once the upstream was
/// contacted, else leaving early would be free; but never on a plan that charges for nothing. Test keys, refusals and
/// errors of our own making cost nothing.
pub fn billable(kind: &Kind, classes: BillableClasses) -> bool {
    if kind.test_key {
        return false;
    }
    match kind.outcome {
        // Where the client failed after it was admitted, the gateway's own 408 or 413 stands here, not the upstream's.
        Outcome::Proxied => kind.failed_by != Some("client") && classes.contains(kind.status_class()),
        Outcome::ClientGone => kind.upstream_contacted && !classes.is_empty(),
        Outcome::Failed | Outcome::Refused(_) => false,
    }
}
