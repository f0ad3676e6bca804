//! The known ways to get this wrong, each of which the tests must notice. Outside tests none can be chosen and the compiler
//! drops every branch. Refuses to hold a mutant that no check kills.

/// One deliberate mistake. The first five were found by property tests of the design; the others are the classic traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(any(not(test), loom), allow(dead_code))] // Some are made by the simulation itself.
pub(crate) enum Mutant {
    /// A new lease prolongs the life of the tokens that are already held.
    LeaseRenewed,
    /// A refund is credited however old it is, though the bucket has refilled meanwhile.
    RefundLate,
    /// Every reply restores the whole overdraft, whatever level it tells.
    OverdraftOnEveryReply,
    /// Redis forgets that a bucket is below zero.
    NegativeForgotten,
    /// A node that got less than it asked for asks again at once.
    AskStorm,
    /// Debts of several nodes are merged by maximum instead of by addition.
    MaxMerge,
    /// Time comes from the gateway that asks.
    GatewayClock,
    /// A refund whose answer was lost is sent again.
    RefundRetried,
    /// A debt whose answer was lost is forgotten.
    DebtNotRetried,
    /// A key is given up though it owes.
    GivenUpInDebt,
}

#[cfg(test)]
#[cfg(not(loom))]
impl Mutant {
    pub(crate) const ALL: [Mutant; 10] = [
        Mutant::LeaseRenewed,
        Mutant::RefundLate,
        Mutant::OverdraftOnEveryReply,
        Mutant::NegativeForgotten,
        Mutant::AskStorm,
        Mutant::MaxMerge,
        Mutant::GatewayClock,
        Mutant::RefundRetried,
        Mutant::DebtNotRetried,
        Mutant::GivenUpInDebt,
    ];
}

#[cfg(test)]
#[cfg(not(loom))]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is to be made.
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) fn is(mutant: Mutant) -> bool {
    ACTIVE.with(|active| active.get() == Some(mutant))
}

#[cfg(any(not(test), loom))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

/// Makes one mistake on this thread while `run` runs.
#[cfg(test)]
#[cfg(not(loom))]
pub(crate) fn with<T>(mutant: Option<Mutant>, run: impl FnOnce() -> T) -> T {
    let before = ACTIVE.with(|active| active.replace(mutant));
    let outcome = run();
    ACTIVE.with(|active| active.set(before));
    outcome
}
