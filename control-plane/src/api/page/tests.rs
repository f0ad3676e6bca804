//! Cursors survive a round trip; anything else is refused.

use proptest::prelude::*;
use uuid::Uuid;

use super::{Cursor, Limit, PageQuery};
use crate::store::After;

proptest! {
    #[test]
    fn a_cursor_decodes_to_what_was_encoded(micros in -1_000_000_000_000_000i64..1_000_000_000_000_000, id: u128) {
        let created_at = jiff::Timestamp::from_microsecond(micros).unwrap();
        let cursor = Cursor(After { created_at, id: Uuid::from_u128(id) });
        prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
    }

    #[test]
    fn no_text_makes_decoding_panic(text in ".{0,60}") {
        let _ = Cursor::decode(&text);
    }
}

#[test]
fn a_page_has_a_cursor_only_when_there_is_another() {
    let query = PageQuery { limit: Limit(2), cursor: None };
    assert_eq!(query.rows(), 3);
    let key = |id: &u128| After { created_at: jiff::Timestamp::UNIX_EPOCH, id: Uuid::from_u128(*id) };
    let page = query.page(vec![1, 2, 3], key, |row| row);
    assert_eq!(page.data, [1, 2]);
    let next = Cursor::decode(&page.next_cursor.unwrap()).unwrap();
    assert_eq!(next.0.id, Uuid::from_u128(2));
    assert!(query.page(vec![1, 2], key, |row| row).next_cursor.is_none());
    assert!(query.page(vec![], key, |row| row).next_cursor.is_none());
}
