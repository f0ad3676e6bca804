//! Usage as charts, lists and logs read it: series and top lists from rollups, the request log, usage against quota. Every
//! statement is bound to whose usage is looked at; the coarsest rollup that answers is read. Refuses to bill from any of it.

mod compose;
mod logged;
mod names;
mod quotas;
mod rank;
mod requests;
mod series;
mod source;
mod top;

#[cfg(test)]
mod bench_tests;

pub use names::{Name, name_groups};
pub use quotas::{QuotaRow, list_quotas};
pub use requests::{LogAfter, LogFilter, LogRow, list_requests};
pub use series::{Cell, SeriesAsk, list_cells};
pub use top::{TopAsk, TopRow, list_top};
