//! What can be watched: a scope and a kind, written `product:<id>:requests`. Refuses to say who may watch it.

use std::fmt;

use uuid::Uuid;

use crate::domain::fault::Flaw;

/// Whose usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Platform,
    Product(Uuid),
    Subscription(Uuid),
    /// What is called of its products.
    Publisher(Uuid),
    /// What it calls.
    Consumer(Uuid),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sums by second.
    Counters,
    /// One row for each request.
    Requests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    pub scope: Scope,
    pub kind: Kind,
}

/// A topic as somebody may see it: publishers see no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    pub topic: Topic,
    pub shows_keys: bool,
}

impl Topic {
    pub fn parse(text: &str) -> Result<Topic, Flaw> {
        Topic::read(text).ok_or_else(|| {
            let forms = "`platform`, `product:<id>`, `subscription:<id>`, `organization:<id>:publisher` or \
                         `organization:<id>:consumer`, and then `:counters` or `:requests`";
            Flaw::new("is not a topic").mend(format!("write {forms}"))
        })
    }

    fn read(text: &str) -> Option<Topic> {
        let (scope, kind) = text.rsplit_once(':')?;
        let kind = match kind {
            "counters" => Kind::Counters,
            "requests" => Kind::Requests,
            _ => return None,
        };
        let mut parts = scope.split(':');
        let scope = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("platform", None, None, None) => Scope::Platform,
            ("product", Some(id), None, None) => Scope::Product(id.parse().ok()?),
            ("subscription", Some(id), None, None) => Scope::Subscription(id.parse().ok()?),
            ("organization", Some(id), Some("publisher"), None) => Scope::Publisher(id.parse().ok()?),
            ("organization", Some(id), Some("consumer"), None) => Scope::Consumer(id.parse().ok()?),
            _ => return None,
        };
        Some(Topic { scope, kind })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Platform => f.write_str("platform")?,
            Scope::Product(id) => write!(f, "product:{id}")?,
            Scope::Subscription(id) => write!(f, "subscription:{id}")?,
            Scope::Publisher(id) => write!(f, "organization:{id}:publisher")?,
            Scope::Consumer(id) => write!(f, "organization:{id}:consumer")?,
        }
        f.write_str(match self.kind {
            Kind::Counters => ":counters",
            Kind::Requests => ":requests",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_reads_as_it_is_written_and_nothing_else_is_one() {
        let id = Uuid::now_v7();
        for scope in
            [Scope::Platform, Scope::Product(id), Scope::Subscription(id), Scope::Publisher(id), Scope::Consumer(id)]
        {
            for kind in [Kind::Counters, Kind::Requests] {
                let topic = Topic { scope, kind };
                assert_eq!(Topic::parse(&topic.to_string()), Ok(topic));
            }
        }
        for text in ["", "platform", "platform:", "platform:x:counters", "product:1:counters", "key:counters"] {
            assert!(Topic::parse(text).is_err(), "{text}");
        }
        assert!(Topic::parse(&format!("organization:{id}:counters")).is_err());
        assert!(Topic::parse(&format!("product:{id}:x:counters")).is_err());
    }
}
