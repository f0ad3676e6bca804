//! The first message of a gateway, as a type that can't be wrong. Bounds every field; knows no database.

use snapshot::token::Token;
use snapshot::wire;
use tonic::Status;
use uuid::Uuid;

use crate::store::nodes::NewNode;

/// As `nodes.name` holds it, in characters.
const NAME_CHARS_MAX: usize = 120;
/// As `nodes.version` holds it, in characters.
const VERSION_CHARS_MAX: usize = 64;
/// As `nodes.features` holds them.
const FEATURES_MAX: usize = 256;
/// One feature's name, in characters.
const FEATURE_CHARS_MAX: usize = 64;

pub(super) struct Hello {
    pub(super) node: NewNode,
    /// What the gateway holds, and so serves.
    pub(super) have: Option<Token>,
}

impl Hello {
    /// Errors: `INVALID_ARGUMENT` that names the field, `FAILED_PRECONDITION` for another protocol.
    pub(super) fn parse(message: wire::FromGateway, address: Option<String>) -> Result<Hello, Status> {
        let Some(wire::from_gateway::Message::Hello(hello)) = message.message else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        if hello.protocol != wire::PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "this control plane speaks protocol {}, the gateway {}",
                wire::PROTOCOL,
                hello.protocol
            )));
        }
        let have = hello.have.as_ref().map(Token::try_from).transpose().map_err(|_| bad("have"))?;
        let served = have.and_then(|token| Some((token.epoch, i64::try_from(token.revision).ok()?)));
        let feature_fits = |name: &String| (1..=FEATURE_CHARS_MAX).contains(&name.chars().count());
        if hello.features.len() > FEATURES_MAX || !hello.features.iter().all(feature_fits) {
            return Err(bad("features"));
        }
        // Names are listed in a header.
        if !hello.node_name.chars().all(|c| c.is_ascii_graphic() && c != ',') {
            return Err(bad("node_name"));
        }
        let node = NewNode {
            id: id(&hello.node_id, "node_id")?,
            name: text(hello.node_name, NAME_CHARS_MAX, "node_name")?,
            boot_id: id(&hello.boot_id, "boot_id")?,
            version: text(hello.version, VERSION_CHARS_MAX, "version")?,
            features: hello.features,
            address,
            served,
        };
        Ok(Hello { node, have })
    }
}

fn bad(field: &str) -> Status {
    Status::invalid_argument(format!("hello.{field} is missing or not valid"))
}

fn id(bytes: &[u8], field: &str) -> Result<Uuid, Status> {
    Uuid::from_slice(bytes).ok().filter(|id| !id.is_nil()).ok_or_else(|| bad(field))
}

/// Control characters, NUL among them, have no place in a name.
fn text(value: String, chars_max: usize, field: &str) -> Result<String, Status> {
    let fits = (1..=chars_max).contains(&value.chars().count()) && !value.chars().any(char::is_control);
    if fits { Ok(value) } else { Err(bad(field)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> wire::Hello {
        wire::Hello {
            node_id: Uuid::from_u128(1).as_bytes().to_vec(),
            node_name: "gateway-1".into(),
            boot_id: Uuid::from_u128(2).as_bytes().to_vec(),
            version: "0.1.0".into(),
            protocol: wire::PROTOCOL,
            features: vec!["routes.v1".into()],
            have: None,
        }
    }

    fn parse(hello: wire::Hello) -> Result<Hello, Status> {
        let message = Some(wire::from_gateway::Message::Hello(hello));
        Hello::parse(wire::FromGateway { message }, None)
    }

    #[test]
    fn a_good_hello_is_taken_in() {
        let parsed = parse(hello()).ok().unwrap();
        assert_eq!(parsed.node.name, "gateway-1");
        assert!(parsed.have.is_none());
    }

    #[test]
    fn every_bad_field_is_named() {
        type Spoil = fn(&mut wire::Hello);
        let cases: [(&str, Spoil); 9] = [
            ("node_id", |hello| hello.node_id.truncate(3)),
            ("node_id", |hello| hello.node_id = vec![0; 16]),
            ("node_name", |hello| hello.node_name.clear()),
            ("node_name", |hello| hello.node_name = "a\0b".into()),
            ("node_name", |hello| hello.node_name = "a, b".into()),
            ("boot_id", |hello| hello.boot_id.clear()),
            ("version", |hello| hello.version = "v".repeat(65)),
            ("features", |hello| hello.features = vec![String::new()]),
            ("have", |hello| hello.have = Some(wire::Token { epoch: vec![1], revision: 1 })),
        ];
        for (field, spoil) in cases {
            let mut spoilt = hello();
            spoil(&mut spoilt);
            let status = parse(spoilt).err().unwrap();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(field), "{field}: {}", status.message());
        }
        let other = wire::Hello { protocol: wire::PROTOCOL + 1, ..hello() };
        assert_eq!(parse(other).err().unwrap().code(), tonic::Code::FailedPrecondition);
        let no_hello = Hello::parse(wire::FromGateway { message: None }, None).err().unwrap();
        assert_eq!(no_hello.code(), tonic::Code::InvalidArgument);
    }
}
