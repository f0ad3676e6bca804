//! Routes against what their patterns say, one by one: which are refused, and which of those that match a path holds.

use proptest::prelude::*;

use super::*;

fn compile(routes: &[(&str, &str)]) -> Result<ProductRoutes, Vec<RoutesFault>> {
    let parsed: Vec<_> = routes
        .iter()
        .map(|(method, pattern)| (MethodMatch::parse(method).unwrap(), Pattern::parse(pattern).unwrap()))
        .collect();
    ProductRoutes::compile(&parsed)
}

fn index(routes: &ProductRoutes, method: Method, path: &str) -> Option<(usize, Vec<String>)> {
    match routes.find(&method, path) {
        Found::Endpoint(index, captures) => Some((index, captures.iter().map(str::to_owned).collect())),
        _ => None,
    }
}

#[test]
fn the_most_specific_route_wins() {
    let routes =
        compile(&[("GET", "/users/{id}"), ("GET", "/users/me"), ("*", "/{*rest}"), ("POST", "/users/{name}")]).unwrap();
    assert_eq!(index(&routes, Method::GET, "/users/me"), Some((1, vec![])));
    assert_eq!(index(&routes, Method::GET, "/users/7"), Some((0, vec!["7".into()])));
    assert_eq!(index(&routes, Method::POST, "/users/7"), Some((3, vec!["7".into()])));
    assert_eq!(index(&routes, Method::HEAD, "/users/7"), Some((0, vec!["7".into()])));
    assert_eq!(index(&routes, Method::PUT, "/x/y"), Some((2, vec!["x/y".into()])));
    assert_eq!(index(&routes, Method::PUT, "/"), Some((2, vec![])));
    assert!(matches!(routes.find(&Method::PUT, "/users/7"), Found::MethodNotAllowed(allow) if allow.len() == 2));
}

#[test]
fn a_catch_all_also_matches_the_path_before_it_unless_that_has_its_own_endpoint() {
    let routes = compile(&[("GET", "/f/{*rest}"), ("GET", "/f/"), ("GET", "/g/{*rest}")]).unwrap();
    assert_eq!(index(&routes, Method::GET, "/f/"), Some((1, vec![])));
    assert_eq!(index(&routes, Method::GET, "/g/"), Some((2, vec![])));
    assert_eq!(index(&routes, Method::GET, "/g"), None);
}

#[test]
fn ambiguous_routes_are_refused_with_both_named() {
    let faults = compile(&[("GET", "/a/{x}"), ("GET", "/a/{y}"), ("*", "/b"), ("*", "/b")]).err().unwrap();
    assert_eq!(faults.len(), 2);
    assert_eq!(faults[0].to_string(), "'GET /a/{x}' and 'GET /a/{y}' match the same requests");
    assert_eq!(faults[1].to_string(), "'* /b' and '* /b' match the same requests");
    assert!(MethodMatch::parse("get").is_err() && MethodMatch::parse("TRACE").is_err());
}

#[test]
fn a_literal_that_a_parameter_would_match_is_a_route_of_its_own() {
    let routes = compile(&[("GET", "/{id}"), ("GET", "/me"), ("POST", "/me")]).unwrap();
    assert_eq!(index(&routes, Method::POST, "/me"), Some((2, vec![])));
    assert_eq!(index(&routes, Method::GET, "/you").map(|found| found.0), Some(0));
}

#[test]
fn a_segment_may_be_of_any_length_and_a_method_that_is_never_proxied_opens_nothing() {
    let long = "x".repeat(900);
    let patterns: Vec<String> = (0..200).map(|at| format!("/v1/{}{at}/{{id}}", &long[..at % 30])).collect();
    let mut listed: Vec<(&str, &str)> = patterns.iter().map(|pattern| ("GET", pattern.as_str())).collect();
    let whole = format!("/{long}/{{a}}/{{b}}");
    listed.push(("POST", &whole));
    let routes = compile(&listed).unwrap();
    for (at, pattern) in patterns.iter().enumerate() {
        assert_eq!(index(&routes, Method::GET, &pattern.replace("{id}", "7")), Some((at, vec!["7".into()])));
    }
    assert_eq!(index(&routes, Method::POST, &format!("/{long}/1/22")), Some((200, vec!["1".into(), "22".into()])));
    assert_eq!(index(&routes, Method::POST, &format!("/{long}y/1/22")), None);
    let never = [(MethodMatch::Only(Method::TRACE), Pattern::parse("/a").unwrap())];
    let routes = ProductRoutes::compile(&never).unwrap();
    assert!(matches!(routes.find(&Method::TRACE, "/a"), Found::MethodNotAllowed(_)));
}

/// How specific a pattern's match is, segment by segment; the least is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Literal,
    Parameter,
    CatchAll,
}

/// A pattern's kinds and parameters, where it matches a path.
fn matched(pattern: &Pattern, path: &str) -> Option<(Vec<Kind>, Vec<String>)> {
    let (mut kinds, mut values) = (Vec::new(), Vec::new());
    let mut rest = Some(path.strip_prefix('/').unwrap());
    for segment in pattern.segments() {
        let left = rest?;
        let (first, after) = left.split_once('/').map_or((left, None), |(first, after)| (first, Some(after)));
        rest = after;
        kinds.push(match segment {
            Segment::Literal(text) if text == first => Kind::Literal,
            Segment::Parameter(_) if !first.is_empty() => Kind::Parameter,
            // The path before it is one of its own.
            Segment::CatchAll(_) if left.is_empty() => Kind::Literal,
            Segment::CatchAll(_) => {
                rest = None;
                Kind::CatchAll
            }
            _ => return None,
        });
        match kinds.last() {
            Some(Kind::Parameter) => values.push(first.to_owned()),
            Some(Kind::CatchAll) => values.push(left.to_owned()),
            _ => {}
        }
    }
    rest.is_none().then_some((kinds, values))
}

/// None: no pattern matches. Else the endpoint, or none for this method.
fn expected(routes: &[(MethodMatch, Pattern)], method: &Method, path: &str) -> Option<Option<(usize, Vec<String>)>> {
    let all = routes.iter().map(|(method, pattern)| (method, pattern, matched(pattern, path)));
    let all: Vec<_> = all.enumerate().filter_map(|(at, (m, p, found))| Some((at, m, p, found?))).collect();
    let best = all.iter().map(|(.., (kinds, _))| kinds).min()?;
    let mut best: Vec<_> = all.iter().filter(|(.., (kinds, _))| kinds == best).collect();
    // One that ends so comes before a catch-all that has nothing left over.
    best.sort_by_key(|(_, _, pattern, _)| matches!(pattern.segments().last(), Some(Segment::CatchAll(_))));
    let with = |wanted: MethodMatch| best.iter().find(|(_, method, ..)| **method == wanted);
    let exact = with(MethodMatch::Only(method.clone()));
    let as_get = || if *method == Method::HEAD { with(MethodMatch::Only(Method::GET)) } else { None };
    let found = exact.or_else(as_get).or_else(|| with(MethodMatch::Any));
    Some(found.map(|(at, _, _, (_, values))| (*at, values.clone())))
}

fn has_twins(routes: &[(MethodMatch, Pattern)]) -> bool {
    let shape = |(method, pattern): &(MethodMatch, Pattern)| {
        let segments: Vec<String> = pattern
            .segments()
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => text.clone(),
                Segment::Parameter(_) => "{}".to_owned(),
                Segment::CatchAll(_) => "{*}".to_owned(),
            })
            .collect();
        (method.as_str().to_owned(), segments)
    };
    let mut shapes: Vec<_> = routes.iter().map(shape).collect();
    shapes.sort();
    shapes.windows(2).any(|pair| pair[0] == pair[1])
}

const LONG: &str = "a-segment-that-no-node-holds-itself";

fn pattern() -> impl Strategy<Value = Pattern> {
    let segment = prop::sample::select(vec!["a", "b", "c", LONG, "{}", "{}"]);
    let end = prop::sample::select(vec!["", "", "/", "/{*rest}"]);
    (prop::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
        let named = |(at, segment): (usize, &str)| format!("/{}", segment.replace("{}", &format!("{{p{at}}}")));
        let text: String = segments.into_iter().enumerate().map(named).chain([end.to_owned()]).collect();
        Pattern::parse(if text.is_empty() { "/" } else { &text }).unwrap()
    })
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "c", LONG, "d", "a-segment-that-no-node-holds-itselF"]);
    (prop::collection::vec(segment, 0..5), prop::sample::select(vec!["", "/"])).prop_map(|(segments, end)| {
        let text: String = segments.iter().map(|segment| format!("/{segment}")).chain([end.to_owned()]).collect();
        if text.is_empty() { "/".to_owned() } else { text }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn of_the_patterns_that_match_a_path_the_most_specific_holds(
        routes in prop::collection::vec((prop::sample::select(vec!["GET", "POST", "HEAD", "*"]), pattern()), 0..12),
        requests in prop::collection::vec((prop::sample::select(vec![Method::GET, Method::HEAD, Method::PUT]), path()), 1..20)
    ) {
        let routes: Vec<_> =
            routes.into_iter().map(|(method, pattern)| (MethodMatch::parse(method).unwrap(), pattern)).collect();
        let compiled = ProductRoutes::compile(&routes);
        prop_assert_eq!(compiled.is_err(), has_twins(&routes));
        let Ok(compiled) = compiled else { return Ok(()) };
        for (method, path) in requests {
            let found = match compiled.find(&method, &path) {
                Found::Endpoint(at, captures) => Some(Some((at, captures.iter().map(str::to_owned).collect()))),
                Found::MethodNotAllowed(allowed) => {
                    prop_assert!(!allowed.is_empty() && !allowed.contains(&&method));
                    Some(None)
                }
                Found::Nothing => None,
            };
            prop_assert_eq!(found, expected(&routes, &method, &path), "{} {}", method, path);
        }
    }
}
