//! One request as the rings hold it: twelve words of 64 bits, the first of which is written last and vouches for the others
//! and for their place. Says nothing about where a record goes, or what it costs.

use http::Method;
#[cfg(test)]
use snapshot::wire::UsageEvent;
use snapshot::wire::{FailedBy, UsageKind, Verdict};
use uuid::Uuid;

/// Words of a record beside the one that commits it.
pub(super) const BODY_WORDS: usize = 11;
/// Words of a record.
pub(super) const WORDS: usize = BODY_WORDS + 1;
/// Byte counts have 48 bits: 256 TiB in one request. Times of day too, in milliseconds.
const BITS_48: u64 = (1 << 48) - 1;

const UPSTREAM_CONTACTED: u8 = 1;
const TEST_KEY: u8 = 2;

/// Odd constants without a pattern (digits of pi), so that equal words at different places hash differently.
const SALTS: [u64; WORDS] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6d,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
    0x9216_d5d9_8979_fb1b,
    0xd131_0ba6_98df_b5ad,
    0x2ffd_72db_d01a_dfb7,
    0xb8e1_afed_6a26_7e97,
];

/// A method as one byte: the names of the standard, and one for every other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodCode(u8);

const METHODS: [&str; 10] = ["OTHER", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

impl MethodCode {
    pub fn of(method: &Method) -> MethodCode {
        MethodCode(match *method {
            Method::GET => 1,
            Method::HEAD => 2,
            Method::POST => 3,
            Method::PUT => 4,
            Method::PATCH => 5,
            Method::DELETE => 6,
            Method::OPTIONS => 7,
            Method::TRACE => 8,
            Method::CONNECT => 9,
            _ => 0,
        })
    }

    pub fn name(self) -> &'static str {
        METHODS.get(usize::from(self.0)).copied().unwrap_or("OTHER")
    }
}

/// What is counted of one request whose subscription is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it ended, in Unix milliseconds.
    pub at_ms: i64,
    pub request_id: Uuid,
    /// Meter ids.
    pub key: u64,
    pub subscription: u64,
    pub product: u64,
    pub endpoint: u64,
    pub plan: u64,
    pub method: MethodCode,
    pub status: u16,
    pub verdict: Verdict,
    pub failed_by: FailedBy,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub latency_us: u32,
    pub upstream_latency_us: u32,
    pub upstream_contacted: bool,
    pub test_key: bool,
}

impl Record {
    /// Refused before it was admitted: never billable, whatever the plan says.
    pub fn is_refusal(&self) -> bool {
        matches!(self.verdict, Verdict::Unpaid | Verdict::Forbidden | Verdict::RateLimited | Verdict::QuotaExceeded)
    }

    pub(super) fn to_words(self) -> [u64; BODY_WORDS] {
        let (id_high, id_low) = self.request_id.as_u64_pair();
        let flags =
            if self.upstream_contacted { UPSTREAM_CONTACTED } else { 0 } | if self.test_key { TEST_KEY } else { 0 };
        let verdict = u8::try_from(i32::from(self.verdict)).unwrap_or(0);
        let failed_by = u8::try_from(i32::from(self.failed_by)).unwrap_or(0);
        [
            u64::try_from(self.at_ms).unwrap_or(0).min(BITS_48) | u64::from(self.status) << 48,
            id_high,
            id_low,
            self.key,
            self.subscription,
            self.product,
            self.endpoint,
            self.plan,
            self.request_bytes.min(BITS_48) | u64::from(u16::from_le_bytes([verdict, failed_by])) << 48,
            self.response_bytes.min(BITS_48) | u64::from(u16::from_le_bytes([self.method.0, flags])) << 48,
            u64::from(self.latency_us) | u64::from(self.upstream_latency_us) << 32,
        ]
    }

    /// The words must have been vouched for: nothing is checked here.
    pub(super) fn from_words(words: &[u64; BODY_WORDS]) -> Record {
        let [at, id_high, id_low, key, subscription, product, endpoint, plan, request, response, latency] = *words;
        let [.., verdict, failed_by] = request.to_le_bytes();
        let [.., method, flags] = response.to_le_bytes();
        Record {
            at_ms: i64::try_from(at & BITS_48).unwrap_or(0),
            request_id: Uuid::from_u64_pair(id_high, id_low),
            key,
            subscription,
            product,
            endpoint,
            plan,
            method: MethodCode(method),
            status: u16::try_from(at >> 48).unwrap_or(0),
            verdict: Verdict::try_from(i32::from(verdict)).unwrap_or(Verdict::Unspecified),
            failed_by: FailedBy::try_from(i32::from(failed_by)).unwrap_or(FailedBy::Nobody),
            request_bytes: request & BITS_48,
            response_bytes: response & BITS_48,
            latency_us: low_half(latency),
            upstream_latency_us: low_half(latency >> 32),
            upstream_contacted: flags & UPSTREAM_CONTACTED != 0,
            test_key: flags & TEST_KEY != 0,
        }
    }

    pub(super) fn to_kind(self) -> UsageKind {
        UsageKind {
            key: self.key,
            subscription: self.subscription,
            product: self.product,
            endpoint: self.endpoint,
            plan: self.plan,
            status: u32::from(self.status),
            verdict: self.verdict.into(),
            failed_by: self.failed_by.into(),
            upstream_contacted: self.upstream_contacted,
            test_key: self.test_key,
        }
    }

    #[cfg(test)]
    pub(super) fn to_event(self) -> UsageEvent {
        UsageEvent {
            at_ms: self.at_ms,
            request_id: self.request_id.as_bytes().to_vec(),
            kind: Some(self.to_kind()),
            method: self.method.name().to_owned(),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            latency_us: self.latency_us,
            upstream_latency_us: self.upstream_latency_us,
        }
    }
}

/// The word that commits the record `index` of a ring: a checksum of its content and of its place, never 0. What an earlier lap
/// left in the same place does not match, and neither does a record whose words are not all there. (The folded multiplication
/// of wyhash; its products do not wait for each other, which makes it several times faster than a CRC of so few bytes.)
pub(super) fn commit_word(index: u64, words: &[u64; BODY_WORDS]) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k] = *words;
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11] = SALTS;
    let sum = fold(a ^ s0, b ^ s1)
        .wrapping_add(fold(c ^ s2, d ^ s3))
        .wrapping_add(fold(e ^ s4, f ^ s5))
        .wrapping_add(fold(g ^ s6, h ^ s7))
        .wrapping_add(fold(i ^ s8, j ^ s9))
        .wrapping_add(fold(k ^ s10, index ^ s11));
    fold(sum ^ s3, index ^ s8) | 1
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    low_word(product) ^ low_word(product >> 64)
}

#[allow(clippy::cast_possible_truncation)] // That is what it is for.
fn low_word(value: u128) -> u64 {
    value as u64
}

#[allow(clippy::cast_possible_truncation)] // That is what it is for.
fn low_half(value: u64) -> u32 {
    value as u32
}
