//! serde's complaints in our words: a pointer to the field itself, a reason, a mend; and the deserializer of one query value.
//! Refuses to repeat the value that was sent.

use serde::de::{Error as _, Visitor, value::Error};
use serde_path_to_error::{Path, Segment};

use crate::domain::fault::{Fault, Flaw};

/// `/plans/0/name`; the empty pointer is the whole body.
pub(super) fn pointer_of(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape(key)),
            Segment::Enum { variant } => format!("/{}", escape(variant)),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Adds the field's name where serde says it only in its message.
pub(super) fn refine(pointer: String, message: &str) -> Fault {
    let named = |rest: &str| rest.split('`').next().map(escape).unwrap_or_default();
    if let Some(rest) = message.strip_prefix("missing field `") {
        let flaw = Flaw::new("is missing").mend("send it");
        return flaw.at(format!("{pointer}/{}", named(rest)));
    }
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let name = named(rest);
        let pointer = if pointer.ends_with(&format!("/{name}")) { pointer } else { format!("{pointer}/{name}") };
        let flaw = Flaw::new("is not a field that can be sent here").mend(mend_of_expected(message));
        return flaw.at(pointer);
    }
    if let Some(rest) = message.strip_prefix("duplicate field `") {
        let name = named(rest);
        let pointer = if pointer.ends_with(&format!("/{name}")) { pointer } else { format!("{pointer}/{name}") };
        return Flaw::new("stands twice").mend("send it once").at(pointer);
    }
    if message.starts_with("unknown variant") {
        return Flaw::new("is not one of the choices").mend(mend_of_expected(message)).at(pointer);
    }
    if message.starts_with("invalid type") || message.starts_with("invalid value") {
        let flaw = Flaw::new("is of the wrong kind").mend(mend_of_expected(message));
        return flaw.at(pointer);
    }
    Flaw::new(message).at(pointer)
}

/// What serde expected stands at the end of its message, after what was sent; a value may hold the word too, so the last counts.
fn mend_of_expected(message: &str) -> String {
    match message.rsplit_once("expected ") {
        Some((_, expected)) if !expected.is_empty() => format!("expected {}", expected.replace('`', "")),
        _ => "leave it out".to_owned(),
    }
}

/// RFC 6901.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A query value is text; a field that wants a number or a boolean gets it parsed, an option gets `Some`.
pub(super) struct TextDeserializer(pub(super) String);

macro_rules! parse_as {
    ($($method:ident $visit:ident $kind:ty, $expected:literal;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse::<$kind>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::custom(concat!("invalid value, expected ", $expected))),
            }
        })+
    };
}

impl<'de> serde::Deserializer<'de> for TextDeserializer {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(serde::de::IntoDeserializer::<Error>::into_deserializer(self.0))
    }

    parse_as! {
        deserialize_bool visit_bool bool, "true or false";
        deserialize_u16 visit_u16 u16, "a whole number";
        deserialize_u32 visit_u32 u32, "a whole number";
        deserialize_u64 visit_u64 u64, "a whole number";
        deserialize_i32 visit_i32 i32, "a whole number";
        deserialize_i64 visit_i64 i64, "a whole number";
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}
