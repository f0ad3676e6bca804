//! The functions in a real Redis: what they refuse, and that names, layouts and figures stay what the model has.

use redis::{Connection, FromRedisValue, RedisError};
use servers::PrivateRedis;
use tempfile::TempDir;

use super::*;
use crate::policy::{Algorithm, BURST_MAX, PER_MINUTE_MAX};
use crate::simulation::Dice;
use crate::terms::{LEASE_MAX_US, REFUND_AGE_MAX_US, UNITS};
use crate::wire::{ASKS_MAX, Ask, QuotaAsk, QuotaLeft, Receipt, Refund, Verdict};

/// A Redis with a library, and a connection to it.
pub(super) struct Redis {
    pub(super) connection: Connection,
    _server: PrivateRedis,
    _dir: TempDir,
}

impl Redis {
    pub(super) fn start(library: &str) -> Redis {
        let dir = tempfile::Builder::new().prefix("limits").tempdir_in("/tmp").unwrap();
        let server = PrivateRedis::start(dir.path(), false).unwrap();
        let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let loaded: String = load(library).query(&mut connection).unwrap();
        assert_eq!(loaded, LIBRARY);
        Redis { connection, _server: server, _dir: dir }
    }

    fn say(&mut self, request: &Request) -> Reply {
        let bytes: Vec<u8> = self.call(EXCHANGE, &exchange("rl", Lane::Whole, request)).unwrap();
        read_reply(&bytes).unwrap()
    }

    fn call<T: FromRedisValue>(&mut self, function: &str, call: &Call) -> Result<T, RedisError> {
        fcall(function, call).query(&mut self.connection)
    }

    fn dump(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.connection).unwrap();
        keys.sort();
        let values =
            keys.iter().map(|key| redis::cmd("GET").arg(key).query(&mut self.connection).unwrap()).collect::<Vec<_>>();
        keys.into_iter().zip(values).collect()
    }
}

fn load(library: &str) -> redis::Cmd {
    redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).to_owned()
}

pub(super) fn fcall(function: &str, call: &Call) -> redis::Cmd {
    redis::cmd("FCALL").arg(function).arg(call.keys.len()).arg(&call.keys).arg(&call.argument).to_owned()
}

fn hello() -> Request {
    Request { node: u64::MAX, epoch: 0, birth: u64::MAX - 1, send: 1, debts: 0, asks: Vec::new() }
}

fn ask(key: u64) -> Ask {
    Ask {
        key,
        revision: 1,
        algorithm: Algorithm::TokenBucket,
        per_minute: 600,
        burst: 50,
        debt: 3,
        want: 10,
        refund: None,
        quota: None,
    }
}

#[test]
fn a_process_greets_asks_is_seeded_and_is_told_what_is_left() {
    let mut redis = Redis::start(library());
    let greeted = redis.say(&hello());
    assert_eq!((greeted.node, greeted.verdict), (u64::MAX, Verdict::Admitted { epoch: 1 }));
    let quota = Some(QuotaAsk { period: 7, included: 100, hard: true });
    let mut request =
        Request { epoch: 1, send: 2, debts: 1, asks: vec![Ask { quota, ..ask(u64::MAX) }, ask(2)], ..hello() };
    let first = redis.say(&request);
    assert_eq!(first.verdict, Verdict::Done);
    assert_eq!((first.grants[0].key, first.grants[0].tokens), (u64::MAX, 10));
    assert_eq!((first.grants[0].level, first.grants[0].quota), (37 * UNITS, Some(QuotaLeft::Unseeded)));
    assert_eq!(redis.say(&request).verdict, Verdict::Stale);
    assert_eq!(redis.call::<i64>(SEED, &seed("rl", u64::MAX, 7, 60)).unwrap(), 1);
    assert_eq!(redis.call::<i64>(SEED, &seed("rl", u64::MAX, 7, 10)).unwrap(), 0);
    request.send = 3;
    let second = redis.say(&request);
    assert_eq!(
        second.grants[0].quota,
        Some(QuotaLeft::Left(30)),
        "debts of a set that was told before do not count again"
    );
    assert_eq!(redis.call::<i64>(SEED, &seed("rl", 4, 7, 60)).unwrap(), 1, "a key that was never asked about");
}

#[test]
fn a_count_is_raised_to_what_was_used_and_lowered_once_for_each_finding() {
    let mut redis = Redis::start(library());
    redis.say(&hello());
    let tell = Mend { period: 7, ..Mend::default() };
    let ask_for = |redis: &mut Redis, wanted: Mend| {
        read_mended(&redis.call::<Vec<u8>>(MEND, &mend("rl", 2, wanted)).unwrap()).unwrap()
    };
    assert_eq!(ask_for(&mut redis, tell), None, "nothing is there");
    redis.call::<i64>(SEED, &seed("rl", 2, 7, 60)).unwrap();
    let quota = Some(QuotaAsk { period: 7, included: 100, hard: true });
    let mut request = Request { epoch: 1, send: 2, debts: 1, asks: vec![Ask { quota, ..ask(2) }], ..hello() };
    assert_eq!(redis.say(&request).grants[0].quota, Some(QuotaLeft::Left(27)), "three of debt, ten granted");
    let before = redis.dump();
    let found = ask_for(&mut redis, tell).unwrap();
    assert_eq!((found.before, found.after), (73, 73));
    assert_eq!(redis.dump(), before, "who only asks changes nothing");
    assert_eq!(ask_for(&mut redis, Mend { period: 8, least: 99, ..tell }), None, "another month's count is left alone");

    let raised = ask_for(&mut redis, Mend { least: 80, ..tell }).unwrap();
    assert_eq!((raised.before, raised.after), (73, 80));
    let lower = Mend { excess: 30, since_us: found.since_us, ..tell };
    let lowered = ask_for(&mut redis, lower).unwrap();
    assert_eq!((lowered.before, lowered.after), (80, 50));
    assert_eq!(ask_for(&mut redis, lower).unwrap().after, 50, "another's same finding takes nothing more off");
    let again = Mend { excess: 90, since_us: lowered.since_us, least: 7, ..tell };
    assert_eq!(ask_for(&mut redis, again).unwrap().after, 7, "never below what was used");
    request.send = 3;
    assert_eq!(redis.say(&request).grants[0].quota, Some(QuotaLeft::Left(83)), "the rate's state is as it was");
}

#[test]
fn states_are_forgotten_when_nothing_depends_on_them_and_not_before() {
    let mut redis = Redis::start(library());
    redis.say(&hello());
    let quota = Some(QuotaAsk { period: 7, included: 100, hard: false });
    let fixed = Ask { algorithm: Algorithm::FixedWindow, per_minute: 50, ..ask(6) };
    let sliding = Ask { algorithm: Algorithm::SlidingWindow, per_minute: 50, ..ask(8) };
    let asks = vec![Ask { per_minute: 1, ..ask(2) }, Ask { quota, ..ask(4) }, fixed, sliding];
    redis.call::<i64>(SEED, &seed("rl", 4, 7, 60)).unwrap();
    redis.say(&Request { epoch: 1, send: 2, debts: 1, asks, ..hello() });
    let mut ttl = |name: String| redis::cmd("TTL").arg(name).query::<i64>(&mut redis.connection).unwrap();
    assert!((1_438..=1_441).contains(&ttl(state_key("rl", 2))), "thirteen tokens at one a minute, and eleven minutes");
    assert!((40 * 86_400..=40 * 86_400 + 600).contains(&ttl(state_key("rl", 4))), "a month, at least");
    assert!((659..=722).contains(&ttl(state_key("rl", 6))));
    assert!((659..=722).contains(&ttl(state_key("rl", 8))));
    assert!((86_390..=86_400).contains(&ttl(format!("rl:link:{}", u64::MAX))));
}

#[test]
fn a_malformed_message_is_refused_and_changes_nothing() {
    let mut redis = Redis::start(library());
    redis.say(&hello());
    let receipt = Receipt { granted_us: 1_790_000_000_000_000, level: 3, credited: 0 };
    let refund = Some(Refund { tokens: 1, receipt });
    let asks = vec![
        ask(2),
        Ask { refund, ..ask(4) },
        Ask { quota: Some(QuotaAsk { period: 1, included: 5, hard: true }), ..ask(6) },
    ];
    let good = exchange("rl", Lane::Whole, &Request { epoch: 1, send: 2, debts: 1, asks, ..hello() });
    let with = |at: usize, bytes: &[u8]| {
        let mut call = good.clone();
        call.argument[at..at + bytes.len()].copy_from_slice(bytes);
        call
    };
    let last = 41 + 2 * 74;
    let beyond = (1_u64 << 53).to_le_bytes();
    let mut bad = vec![
        with(0, &[2]),
        with(9, &beyond),
        with(25, &beyond),
        with(33, &beyond),
        with(last + 8, &beyond),
        with(last + 16, &[3]),
        with(last + 17, &[16]),
        with(last + 18, &0_u32.to_le_bytes()),
        with(last + 18, &(PER_MINUTE_MAX + 1).to_le_bytes()),
        with(last + 22, &0_u32.to_le_bytes()),
        with(last + 22, &(BURST_MAX + 1).to_le_bytes()),
        with(last + 38, &beyond),
        with(41 + 74 + 50, &beyond),
        with(41 + 74 + 58, &(-(1_i64 << 53)).to_le_bytes()),
        with(41 + 74 + 66, &beyond),
        Call { keys: Vec::new(), ..good.clone() },
        Call { keys: good.keys[..3].to_vec(), ..good.clone() },
    ];
    bad.extend((0..good.argument.len()).map(|end| Call { argument: good.argument[..end].to_vec(), ..good.clone() }));
    let many = Request { epoch: 1, send: 2, asks: vec![ask(2); ASKS_MAX + 1], ..hello() };
    bad.push(exchange("rl", Lane::Whole, &many));
    let before = redis.dump();
    for call in bad {
        let error = redis.call::<Vec<u8>>(EXCHANGE, &call).unwrap_err();
        assert_eq!(error.code(), Some("LIMITS"), "{error} {call:?}");
        assert!(redis.call::<i64>(SEED, &call).is_err());
        assert_eq!(redis.dump(), before);
    }
    assert!(redis.call::<Vec<u8>>(EXCHANGE, &good).is_ok());
}

#[test]
fn garbage_in_the_place_of_a_state_counts_as_lost() {
    let mut redis = Redis::start(library());
    let mut dice = Dice::new(1);
    for length in [0, 1, 40, 89, 90, 91, 142, 200] {
        let garbage: Vec<u8> = (0..length).map(|_| u8::try_from(4 + dice.below(250)).unwrap()).collect();
        for name in ["rl:link:18446744073709551615".to_owned(), state_key("rl", 2)] {
            let _: () = redis::cmd("SET").arg(name).arg(&garbage).query(&mut redis.connection).unwrap();
        }
        let epoch = if length == 40 { None } else { Some(1) };
        let Verdict::Admitted { epoch: given } = redis.say(&hello()).verdict else { panic!("{length}") };
        assert!(epoch.is_none_or(|epoch| epoch == given));
        if length == 40 {
            continue;
        }
        let reply = redis.say(&Request { epoch: given, send: 2, debts: 1, asks: vec![ask(2)], ..hello() });
        assert_eq!((reply.grants[0].tokens, reply.grants[0].level), (10, 37 * UNITS), "{length}");
    }
}

#[test]
fn a_reload_of_the_library_keeps_every_state() {
    let mut redis = Redis::start(library());
    redis.say(&hello());
    redis.say(&Request { epoch: 1, send: 2, debts: 1, asks: vec![ask(2)], ..hello() });
    let before = redis.dump();
    let _: String = load(library()).query(&mut redis.connection).unwrap();
    assert_eq!(redis.dump(), before);
    let again = redis.say(&Request { epoch: 1, send: 3, debts: 1, asks: vec![Ask { want: 0, ..ask(2) }], ..hello() });
    assert!(again.grants[0].level < 40 * UNITS, "the debt and the lease are still debited");
    assert_eq!(redis.say(&Request { epoch: 1, send: 3, debts: 2, ..hello() }).verdict, Verdict::Stale);
}

#[test]
fn an_answer_is_read_whole_or_not_at_all() {
    let mut redis = Redis::start(library());
    redis.say(&hello());
    let call = exchange("rl", Lane::Whole, &Request { epoch: 1, send: 2, debts: 1, asks: vec![ask(2)], ..hello() });
    let bytes: Vec<u8> = redis.call(EXCHANGE, &call).unwrap();
    assert!(read_reply(&bytes).is_ok());
    for end in (0..bytes.len()).filter(|end| *end != 34) {
        assert_eq!(read_reply(&bytes[..end]), Err(BadReply::Short));
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        read_reply(&bytes)
    };
    assert_eq!(with(0, 2), Err(BadReply::Version(2)));
    assert_eq!(with(1, 4), Err(BadReply::Word(4)));
    assert_eq!(with(34 + 44, 3), Err(BadReply::Word(3)));
    let long = [&bytes[..34], &bytes[34..].repeat(ASKS_MAX + 1)].concat();
    assert_eq!(read_reply(&long), Err(BadReply::Long(53)));
}

/// States and messages of running fleets depend on these.
#[test]
fn names_and_layouts_of_this_version_stay() {
    assert_eq!([0, 1, 2, 3, 4, 1_000_000, u64::MAX].map(group_of), [0, 0, 808, 808, 432, 971, 363]);
    let request = Request { node: 5, epoch: 1, birth: 9, send: 2, debts: 1, asks: vec![ask(2)] };
    let whole = exchange("rl", Lane::Whole, &request);
    let grouped = exchange("rl", Lane::Group(group_of(2)), &request);
    assert_eq!(whole.keys, ["rl:link:5", "rl:{b808}:2"]);
    assert_eq!(grouped.keys, ["rl:{b808}:link:5", "rl:{b808}:2"]);
    assert_eq!(whole.argument.len(), 41 + 74);
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        assert!(pack::algorithm(algorithm) < 3);
    }
}

#[test]
fn keys_spread_over_all_groups() {
    let mut counts = vec![0_u32; usize::from(GROUPS)];
    for meter in 0..100 * u64::from(GROUPS) {
        assert_eq!(group_of(2 * meter), group_of(2 * meter + 1), "live and test keys of a subscription");
        counts[usize::from(group_of(2 * meter))] += 1;
    }
    assert!(counts.iter().all(|count| (40..200).contains(count)), "{counts:?}");
}

#[test]
fn the_script_has_the_figures_of_the_protocol() {
    let sub_us = (60_000_000 + LEASE_MAX_US).div_ceil(12);
    let figures = [
        format!("ASKS_MAX = {ASKS_MAX}"),
        format!("PER_MINUTE_MAX = {PER_MINUTE_MAX}"),
        format!("BURST_MAX = {BURST_MAX}"),
        format!("UNITS = {UNITS}"),
        format!("LEASE_MAX_US = {LEASE_MAX_US}"),
        format!("REFUND_AGE_MAX_US = {REFUND_AGE_MAX_US}"),
        format!("SUB_US = {sub_us}"),
    ];
    for figure in figures {
        assert_eq!(library().matches(&format!("local {figure}\n")).count(), 1, "{figure}");
    }
}

#[test]
fn a_key_is_named_by_its_group_and_its_number() {
    for key in [0, 1, 9, 10, 1_000_000, u64::MAX] {
        let name = state_key("rl", key);
        assert_eq!(name, format!("rl:{{b{}}}:{key}", group_of(key)));
        assert!(name.len() <= "rl".len() + NAME_BYTES, "{name}");
    }
}
