//! Words of an invoice's life, and its lines. Decides nothing.

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use uuid::Uuid;

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

/// A line. Its amount is a decimal where it is kept and shown, and whole minor units where it is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<Amount> {
    pub kind: LineKind,
    pub subscription: Option<Uuid>,
    pub plan: Option<Uuid>,
    pub month: Option<Date>,
    pub description: String,
    pub quantity: Decimal,
    pub unit_price: Decimal,
    pub amount: Amount,
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl<Amount> Line<Amount> {
    /// The same line with another amount.
    pub fn with_amount<Other>(&self, amount: Other) -> Line<Other> {
        Line {
            kind: self.kind,
            subscription: self.subscription,
            plan: self.plan,
            month: self.month,
            description: self.description.clone(),
            quantity: self.quantity,
            unit_price: self.unit_price,
            amount,
            from: self.from,
            until: self.until,
        }
    }
}
