//! The closed sets of label values. Refuses anything that a client or a tenant could choose: no path, no key, no id.

use http::Method;

/// Label values are these and nothing else.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn as_str(self) -> &'static str;
    /// The place in `ALL`.
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$($name::$variant),+];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }
    };
}

label!(
    /// What the look at a credential found.
    AuthResult { Accepted = "accepted", Missing = "missing", Conflicting = "conflicting",
        Unknown = "unknown", Expired = "expired", Forbidden = "forbidden" }
);
label!(
    /// How a plan limits.
    LimitAlgorithm { TokenBucket = "token_bucket", SlidingWindow = "sliding_window", FixedWindow = "fixed_window" }
);
label!(
    /// How a limit decided. Admitted: on a leased token, on overdraft, on the node's share while Redis is away, or counted in
    /// memory where there is no Redis. Refused: too fast, the month is used up, or Redis did not answer in time.
    LimitOutcome { Leased = "leased", Overdraft = "overdraft", Share = "share", Counted = "counted",
        OverRate = "over_rate", OverQuota = "over_quota", Unanswered = "unanswered" }
);
label!(
    /// How a wait for Redis ended.
    WaitResult { Answered = "answered", TimedOut = "timed_out" }
);
label!(
    /// Why a usage event was lost.
    DropReason { RingFull = "ring_full", RefusalShed = "refusal_shed", Damaged = "damaged",
        NotConfigured = "not_configured", Stopped = "stopped" }
);
label!(
    /// Why a change of the configuration could not be taken in.
    ApplyFailure { Message = "message", Digest = "digest", OutOfOrder = "out_of_order", Crashed = "crashed" }
);
label!(
    ResolveResult { Resolved = "resolved", Failed = "failed", Forbidden = "forbidden" }
);
label!(
    /// Why a connection was closed before or while its request was read.
    ConnectionRefusal { Total = "total", PerAddress = "per_address", Rate = "rate", HeaderDeadline = "header_deadline",
        Resets = "resets", Gone = "gone" }
);

label!(
    /// What of a product was at its cap.
    ProductCap { Requests = "requests", Connections = "connections" }
);
label!(
    /// Whose word a product's caps are: this gateway's settings', or an operator's for the product alone.
    CapClass { Default = "default", Own = "own" }
);

label!(
    /// The class of a status code.
    CodeClass { C1 = "1xx", C2 = "2xx", C3 = "3xx", C4 = "4xx", C5 = "5xx", Other = "other" }
);

impl CodeClass {
    pub fn of(status: u16) -> CodeClass {
        match status {
            100..=199 => CodeClass::C1,
            200..=299 => CodeClass::C2,
            300..=399 => CodeClass::C3,
            400..=499 => CodeClass::C4,
            500..=599 => CodeClass::C5,
            _ => CodeClass::Other,
        }
    }
}

/// How many values the label of the method has.
pub const METHODS: usize = 8;
const METHOD_NAMES: [&str; METHODS] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];

/// The methods that are named; a client may invent others.
pub fn method(method: &Method) -> &'static str {
    METHOD_NAMES.get(method_index(method)).copied().unwrap_or("other")
}

/// The place of a method's name, below `METHODS`.
pub fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        _ => 7,
    }
}
