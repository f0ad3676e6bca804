//! What is different between two releases: fields of the settings, and per endpoint and plan what came, went or changed.
//! Works on the readable summaries; knows no meaning of any field.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Where two releases differ. Equal releases have empty lists everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ReleaseDiff {
    pub settings: Vec<FieldChange>,
    pub endpoints: ItemsDiff,
    pub plans: ItemsDiff,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FieldChange {
    pub field: String,
    pub before: Value,
    pub after: Value,
}

/// Of a list whose items have ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ItemsDiff {
    pub added: Vec<Value>,
    pub removed: Vec<Value>,
    pub changed: Vec<ItemChange>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ItemChange {
    pub id: String,
    pub fields: Vec<FieldChange>,
}

/// Compares two stored summaries.
pub fn compare(before: &Value, after: &Value) -> ReleaseDiff {
    let object = |value: &Value, name: &str| value.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    ReleaseDiff {
        settings: fields(&object(before, "settings"), &object(after, "settings")),
        endpoints: items(before.get("endpoints"), after.get("endpoints")),
        plans: items(before.get("plans"), after.get("plans")),
    }
}

fn fields(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<FieldChange> {
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let value_of = |side: &Map<String, Value>, name: &str| side.get(name).cloned().unwrap_or(Value::Null);
    names
        .map(|name| FieldChange { field: name.clone(), before: value_of(before, name), after: value_of(after, name) })
        .filter(|change| change.before != change.after)
        .collect()
}

fn items(before: Option<&Value>, after: Option<&Value>) -> ItemsDiff {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(before), list(after));
    let by_id = |items: &'_ [Value]| -> HashMap<String, Value> {
        items.iter().filter_map(|item| Some((id_of(item)?.to_owned(), item.clone()))).collect()
    };
    let (old, new) = (by_id(&before), by_id(&after));
    let mut diff = ItemsDiff::default();
    for item in before {
        match id_of(&item).map(|id| (id, new.get(id))) {
            Some((id, Some(other))) => diff.changed.extend(item_change(id, &item, other)),
            _ => diff.removed.push(item),
        }
    }
    diff.added = after.into_iter().filter(|item| id_of(item).is_none_or(|id| !old.contains_key(id))).collect();
    diff
}

fn item_change(id: &str, before: &Value, after: &Value) -> Option<ItemChange> {
    let (before, after) = (before.as_object()?, after.as_object()?);
    let fields = fields(before, after);
    (!fields.is_empty()).then(|| ItemChange { id: id.to_owned(), fields })
}

fn id_of(item: &Value) -> Option<&str> {
    item.get("id").and_then(Value::as_str)
}
