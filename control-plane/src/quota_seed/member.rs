//! `<key>:<period>`, as a gateway names a count that it misses. Refuses what no gateway would write.

use crate::store::quota::PeriodOf;

/// Months have these ids; whatever else comes would not be a date.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=9999;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    subscription: i64,
    period: i32,
}

impl Member {
    /// `None`: not of this form, or the key of test requests, which use up no quota.
    pub(super) fn parse(text: &str) -> Option<Member> {
        let (key, period) = text.split_once(':')?;
        let (key, period) = (key.parse::<u64>().ok()?, period.parse::<i32>().ok()?);
        let is_month = YEARS.contains(&(period / 100)) && (1..=12).contains(&(period % 100));
        (key % 2 == 0 && is_month).then_some(())?;
        Some(Member { subscription: i64::try_from(key / 2).ok()?, period })
    }

    pub(super) fn period_of(&self) -> PeriodOf {
        PeriodOf { subscription: self.subscription, period: self.period }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_months_of_live_keys_are_seeded() {
        assert_eq!(Member::parse("14:202611"), Some(Member { subscription: 7, period: 202_611 }));
        for text in
            ["15:202611", "14:202613", "14:202600", "14:0", "14", ":", "a:202611", "-2:202611", "14:202611:", ""]
        {
            assert_eq!(Member::parse(text), None, "{text}");
        }
        assert_eq!(
            Member::parse(&format!("{}:202611", u64::MAX - 1)).map(|member| member.subscription),
            Some(i64::MAX)
        );
    }
}
