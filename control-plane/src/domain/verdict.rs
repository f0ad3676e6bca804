//! What became of a request, as charts and logs name it. Refuses to say what costs money.

text_enum! {
    /// Admitted requests were answered by the upstream, by an error of the gateway's own making, or left alone by the
    /// client; the others were refused.
    Verdict {
        Proxied = "proxied",
        UpstreamError = "upstream_error",
        ClientGone = "client_gone",
        PaymentRequired = "payment_required",
        Forbidden = "forbidden",
        RateLimited = "rate_limited",
        QuotaExceeded = "quota_exceeded",
    }
}

impl Verdict {
    pub fn is_admitted(self) -> bool {
        matches!(self, Verdict::Proxied | Verdict::UpstreamError | Verdict::ClientGone)
    }
}
