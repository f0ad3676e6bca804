//! Rows in the binary form that COPY takes, written straight from values: several times cheaper than a statement's arrays.
//! Refuses to know any table; who writes a row writes its columns in their order.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// The form's signature, flags and header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// No further row.
const TRAILER: i16 = -1;
/// Rows are sent in pieces of about this size, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// Postgres counts microseconds from the year 2000; this is its Unix time.
const EPOCH_UNIX_MS: i64 = 946_684_800_000;

pub(super) struct CopyRows {
    columns: i16,
    piece: BytesMut,
    pieces: Vec<Bytes>,
}

/// One row being written: as many values as there are columns.
pub(super) struct CopyRow<'a>(&'a mut BytesMut);

impl CopyRows {
    pub(super) fn new(columns: i16) -> CopyRows {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES + 4096);
        piece.put_slice(HEADER);
        CopyRows { columns, piece, pieces: Vec::new() }
    }

    pub(super) fn row(&mut self) -> CopyRow<'_> {
        if self.piece.len() >= PIECE_BYTES {
            self.pieces.push(self.piece.split().freeze());
            self.piece.reserve(PIECE_BYTES + 4096);
        }
        self.piece.put_i16(self.columns);
        CopyRow(&mut self.piece)
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.piece.put_i16(TRAILER);
        self.pieces.push(self.piece.freeze());
        self.pieces
    }
}

impl CopyRow<'_> {
    pub(super) fn null(self) -> Self {
        self.0.put_i32(-1);
        self
    }

    pub(super) fn boolean(self, value: bool) -> Self {
        self.0.put_i32(1);
        self.0.put_u8(u8::from(value));
        self
    }

    pub(super) fn smallint(self, value: i16) -> Self {
        self.0.put_i32(2);
        self.0.put_i16(value);
        self
    }

    pub(super) fn int(self, value: i32) -> Self {
        self.0.put_i32(4);
        self.0.put_i32(value);
        self
    }

    pub(super) fn bigint(self, value: i64) -> Self {
        self.0.put_i32(8);
        self.0.put_i64(value);
        self
    }

    pub(super) fn optional_bigint(self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.bigint(value),
            None => self.null(),
        }
    }

    /// From Unix milliseconds, of which every time within the years 2000 to 2100 has its microsecond.
    pub(super) fn timestamptz(self, unix_ms: i64) -> Self {
        self.bigint(unix_ms.saturating_sub(EPOCH_UNIX_MS).saturating_mul(1_000))
    }

    pub(super) fn uuid(self, value: Uuid) -> Self {
        self.0.put_i32(16);
        self.0.put_slice(value.as_bytes());
        self
    }

    /// A short one: texts of ours have bounds.
    pub(super) fn text(self, value: &str) -> Self {
        self.0.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.0.put_slice(value.as_bytes());
        self
    }

    pub(super) fn optional_text(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }
}
