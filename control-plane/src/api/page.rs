//! Pages: `{data, next_cursor}`, by keyset, so that a page costs the same wherever it stands. A cursor is opaque and says
//! only where the last page ended. Refuses sizes out of range instead of trimming them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::store::After;

#[cfg(test)]
mod tests;

pub const PAGE_ROWS_MAX: u64 = 100;
pub const PAGE_ROWS_DEFAULT: u64 = 20;
/// Version byte, microseconds, id.
const CURSOR_BYTES: usize = 1 + 8 + 16;
const CURSOR_VERSION: u8 = 1;
/// What every cursor looks like: base64url of the bytes above, of a time that a clock can show. For the OpenAPI document.
pub const CURSOR_PATTERN: &str = "^AQ[A-H][A-Za-z0-9_-]{30}[AQgw]$";

/// How many rows: 1 to `PAGE_ROWS_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(u64);

impl Default for Limit {
    fn default() -> Limit {
        Limit(PAGE_ROWS_DEFAULT)
    }
}

impl Limit {
    /// As many rows as asked for.
    pub fn rows(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
        let rows = u64::deserialize(deserializer)?;
        if (1..=PAGE_ROWS_MAX).contains(&rows) {
            return Ok(Limit(rows));
        }
        Err(serde::de::Error::custom(format!("invalid value, expected a whole number from 1 to {PAGE_ROWS_MAX}")))
    }
}

/// Where the last page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub After);

impl Cursor {
    fn encode(self) -> String {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend(self.0.created_at.as_microsecond().to_be_bytes());
        bytes.extend(self.0.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&version, rest) = bytes.split_first()?;
        if version != CURSOR_VERSION || bytes.len() != CURSOR_BYTES {
            return None;
        }
        let (micros, id) = rest.split_first_chunk::<8>()?;
        let created_at = jiff::Timestamp::from_microsecond(i64::from_be_bytes(*micros)).ok()?;
        Some(Cursor(After { created_at, id: Uuid::from_slice(id).ok()? }))
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cursor, D::Error> {
        let text = String::deserialize(deserializer)?;
        Cursor::decode(&text)
            .ok_or_else(|| serde::de::Error::custom("invalid value, expected the next_cursor of an earlier answer"))
    }
}

/// The two parameters of every list; lists with filters repeat the fields, because flattening would let unknown ones in.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows on the page.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    pub limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
}

impl PageQuery {
    /// One row more than asked for, so that the page knows whether there is another.
    pub fn rows(&self) -> i64 {
        self.limit.rows() + 1
    }

    pub fn after(&self) -> Option<After> {
        self.cursor.map(|Cursor(after)| after)
    }

    /// Cuts the row that was read in advance.
    pub fn page<R, T>(&self, mut rows: Vec<R>, key: impl Fn(&R) -> After, show: impl Fn(R) -> T) -> Page<T> {
        let wanted = usize::try_from(self.limit.0).unwrap_or(usize::MAX);
        let has_more = rows.len() > wanted;
        rows.truncate(wanted);
        let next_cursor = rows.last().filter(|_| has_more).map(|row| Cursor(key(row)).encode());
        Page { data: rows.into_iter().map(show).collect(), next_cursor }
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Send it as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}
