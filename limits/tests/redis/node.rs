//! A gateway's side of the conversation, without its slots: numbers that grow, and terms of one kind.

use limits::policy::Algorithm;
use limits::script::{self, Call, EXCHANGE, Lane};
use limits::wire::{Ask, Reply, Request, Verdict};
use redis::{Cmd, Connection};

pub(crate) struct Node {
    lane: Lane,
    request: Request,
}

impl Node {
    pub(crate) fn new(lane: Lane) -> Node {
        Node { lane, request: Request { node: 1, epoch: 0, birth: 1, send: 1, debts: 0, asks: Vec::new() } }
    }

    /// The next message: a greeting until an epoch is known.
    pub(crate) fn next(&mut self, asks: Vec<Ask>) -> Call {
        self.request.send += 1;
        self.request.debts += 1;
        self.request.asks = asks;
        script::exchange("rl", self.lane, &self.request)
    }

    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Reply {
        let reply = script::read_reply(bytes).unwrap();
        assert_eq!(reply.send, self.request.send);
        if let Verdict::Admitted { epoch } = reply.verdict {
            self.request.epoch = epoch;
        }
        reply
    }

    pub(crate) fn say(&mut self, connection: &mut Connection, asks: Vec<Ask>) -> Reply {
        let call = self.next(asks);
        let bytes: Vec<u8> = fcall(EXCHANGE, &call).query(connection).unwrap();
        self.hear(&bytes)
    }
}

pub(crate) fn fcall(function: &str, call: &Call) -> Cmd {
    redis::cmd("FCALL").arg(function).arg(call.keys.len()).arg(&call.keys).arg(&call.argument).to_owned()
}

pub(crate) fn load() -> Cmd {
    redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(script::library()).to_owned()
}

/// 600 a minute, 100 at once.
pub(crate) fn ask(key: u64) -> Ask {
    Ask {
        key,
        revision: 1,
        algorithm: Algorithm::TokenBucket,
        per_minute: 600,
        burst: 100,
        debt: 0,
        want: 0,
        refund: None,
        quota: None,
    }
}
