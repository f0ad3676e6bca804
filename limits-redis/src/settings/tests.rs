//! What an operator may write, and what is told where it is wrong.

use ::settings::Reader;

use super::*;

fn take(text: &str, environment: Option<&'static str>) -> Result<Option<LimitsRedis>, String> {
    let variable = move |name: &str| environment.filter(|_| name == VARIABLE).map(Into::into);
    let mut reader = Reader::parse_with_env("t.toml", text, variable).unwrap();
    let usage = Secret::new("redis://usage");
    let taken = LimitsRedis::take(&mut reader.section("limits"), Some(&usage));
    reader.finish().map(|()| taken).map_err(|errors| errors.to_string())
}

fn urls(text: &str, environment: Option<&'static str>) -> Vec<String> {
    let redis = take(text, environment).unwrap().unwrap();
    redis.urls.iter().map(|url| url.expose().to_owned()).collect()
}

#[test]
fn limits_are_counted_where_usage_is_sent_unless_another_redis_is_named() {
    assert_eq!(urls("", None), ["redis://usage"]);
    let text =
        "[limits]\nredis_urls = [\"redis://a\", \"redis://b\"]\nredis_kind = \"sentinel\"\nsentinel_service = \"rl\"\n";
    assert_eq!(urls(text, None), ["redis://a", "redis://b"]);
    let kind = take(text, None).unwrap().unwrap().kind;
    assert_eq!(kind, RedisKind::Sentinel { service: "rl".to_owned() });
    assert_eq!(urls(text, Some("redis://:p@c, redis://:p@d")), ["redis://:p@c", "redis://:p@d"], "the variable wins");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "rediss://:p@e\n").unwrap();
    assert_eq!(urls(&format!("[limits]\nredis_urls_file = \"{}\"\n", file.path().display()), None), ["rediss://:p@e"]);
}

#[test]
fn what_could_not_work_or_would_leak_is_refused_without_repeating_it() {
    for spoilt in [
        "redis_prefix = \"{rl}\"",
        "redis_prefix = \"\"",
        "redis_urls = [\"redis://:s3cret@limits\"]",
        "redis_urls = [\"http://limits\"]",
        "redis_urls = [\"limits:6379\"]",
        "redis_urls = [\"redis://a\", \"rediss://b\"]",
        "redis_urls = [\"redis://a\"]\nredis_ca_file = \"/ca.pem\"",
    ] {
        let errors = take(&format!("[limits]\n{spoilt}\n"), None).unwrap_err();
        assert!(!errors.contains("s3cret"), "{errors}");
    }
    assert!(take("[limits]\nredis_urls = [\"rediss://a\"]\nredis_ca_file = \"/ca.pem\"\n", None).is_ok());
    let shown = format!("{:?}", take("", Some("redis://:s3cret@limits")).unwrap());
    assert!(!shown.contains("s3cret"), "{shown}");
}
