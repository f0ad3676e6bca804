//! Words of an invoice's life. Decides nothing.

text_enum! {
    /// Where an invoice stands. A paid or void one is final.
    InvoiceStatus { Draft = "draft", Issued = "issued", Paid = "paid", Void = "void" }
}

text_enum! {
    /// What a line is for.
    LineKind {
        Plan = "plan",
        Overage = "overage",
        Proration = "proration",
        Credit = "credit",
        Adjustment = "adjustment",
    }
}

text_enum! {
    /// How a simulated payment ends.
    PaymentOutcome { Succeed = "succeed", Fail = "fail" }
}
