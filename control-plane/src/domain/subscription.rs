//! A subscription's life: which step is allowed from where. Applies no step itself.

text_enum! {
    /// Where a subscription stands. Cancelled is final.
    SubscriptionStatus {
        Pending = "pending",
        Active = "active",
        Suspended = "suspended",
        PastDue = "past_due",
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// When a cancellation takes effect.
    CancelWhen { Now = "now", PeriodEnd = "period_end" }
}

text_enum! {
    /// The two sides of a subscription.
    Party { Consumer = "consumer", Publisher = "publisher" }
}

text_enum! {
    /// When another plan takes effect; `none`: it is the one that is held.
    PlanEffect { None = "none", Now = "now", PeriodEnd = "period_end" }
}

/// What somebody wants to happen to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Approve,
    Reject,
    Suspend,
    Resume,
    Cancel,
}

impl Step {
    /// Whether the step can be taken from `status`.
    pub fn allowed_from(self, status: SubscriptionStatus) -> bool {
        use SubscriptionStatus as S;
        match self {
            Step::Approve | Step::Reject => status == S::Pending,
            Step::Suspend => matches!(status, S::Active | S::PastDue),
            Step::Resume => status == S::Suspended,
            Step::Cancel => status != S::Cancelled,
        }
    }

    /// The word of the audit log and of the route.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Approve => "approve",
            Step::Reject => "reject",
            Step::Suspend => "suspend",
            Step::Resume => "resume",
            Step::Cancel => "cancel",
        }
    }
}
