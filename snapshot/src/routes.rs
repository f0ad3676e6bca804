//! The compiled routes of one product: path and method to endpoint. Publishing and proxying compile with this one
//! function, so that what was accepted is what is served. Never looks beyond one product.

use http::Method;
use matchit::{Params, Router};

use crate::pattern::Pattern;

/// The methods an endpoint may name; `*` stands for all of them. TRACE and CONNECT are never proxied.
pub const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// What an endpoint's method field means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MethodMatch {
    Any,
    Only(Method),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RoutesFault {
    #[error("'{0}' is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS or *")]
    Method(String),
    #[error("'{first}' and '{second}' match the same requests")]
    Ambiguous { first: String, second: String },
    #[error("'{route}' cannot stand beside the other routes: {reason}")]
    Conflict { route: String, reason: String },
}

/// Endpoints are known by their index in the list that was compiled.
#[derive(Clone, Default)]
pub struct ProductRoutes {
    router: Router<usize>,
    nodes: Vec<Node>,
}

#[derive(Clone, Default)]
struct Node {
    only: Vec<(Method, usize)>,
    any: Option<usize>,
}

/// What a product has for a request.
#[derive(Debug)]
pub enum Found<'r, 'p> {
    /// Index of the endpoint, and its parameters' values in the pattern's order.
    Endpoint(usize, Params<'r, 'p>),
    /// The path exists, but not with this method; for the `Allow` header.
    MethodNotAllowed(Vec<&'r Method>),
    Nothing,
}

impl MethodMatch {
    pub fn parse(text: &str) -> Result<MethodMatch, RoutesFault> {
        if text == "*" {
            return Ok(MethodMatch::Any);
        }
        let known = METHODS.iter().find(|method| method.as_str() == text);
        known.cloned().map(MethodMatch::Only).ok_or_else(|| RoutesFault::Method(text.to_owned()))
    }

    fn as_str(&self) -> &str {
        match self {
            MethodMatch::Any => "*",
            MethodMatch::Only(method) => method.as_str(),
        }
    }
}

impl ProductRoutes {
    /// Compiles a product's routes. Errors: every fault there is, each naming the routes it is about.
    pub fn compile(routes: &[(MethodMatch, Pattern)]) -> Result<ProductRoutes, Vec<RoutesFault>> {
        let mut compiled = ProductRoutes::default();
        let mut faults = Vec::new();
        for (index, (method, pattern)) in routes.iter().enumerate() {
            if let Err(fault) = compiled.add(routes, index, method, pattern, &pattern.shape()) {
                faults.push(fault);
            }
        }
        // After all others, since an endpoint of its own for the path before a catch-all comes first.
        for (index, (method, pattern)) in routes.iter().enumerate() {
            if let Some(shape) = pattern.shape_before_catch_all() {
                let _taken_by_an_endpoint_of_its_own = compiled.add(routes, index, method, pattern, &shape);
            }
        }
        if faults.is_empty() { Ok(compiled) } else { Err(faults) }
    }

    /// Finds the endpoint for a path in normal form. A HEAD request falls back to GET.
    pub fn find<'r, 'p>(&'r self, method: &Method, path: &'p str) -> Found<'r, 'p> {
        let Ok(matched) = self.router.at(path) else { return Found::Nothing };
        let Some(node) = self.nodes.get(*matched.value) else { return Found::Nothing };
        let exact = |wanted: &Method| node.only.iter().find(|(method, _)| method == wanted).map(|(_, index)| *index);
        let head_as_get = || if method == Method::HEAD { exact(&Method::GET) } else { None };
        match exact(method).or_else(head_as_get).or(node.any) {
            Some(index) => Found::Endpoint(index, matched.params),
            None => Found::MethodNotAllowed(node.only.iter().map(|(method, _)| method).collect()),
        }
    }

    fn add(
        &mut self,
        routes: &[(MethodMatch, Pattern)],
        index: usize,
        method: &MethodMatch,
        pattern: &Pattern,
        shape: &str,
    ) -> Result<(), RoutesFault> {
        let name = |at: usize| {
            routes.get(at).map_or_else(String::new, |(method, pattern)| format!("{} {pattern}", method.as_str()))
        };
        let node_index = match self.router.at(shape) {
            Ok(found) if self.shape_is(shape, *found.value, routes) => *found.value,
            _ => {
                let node_index = self.nodes.len();
                self.router.insert(shape, node_index).map_err(|error| RoutesFault::Conflict {
                    route: format!("{} {pattern}", method.as_str()),
                    reason: error.to_string(),
                })?;
                self.nodes.push(Node::default());
                node_index
            }
        };
        let Some(node) = self.nodes.get_mut(node_index) else { return Ok(()) };
        let taken = match method {
            MethodMatch::Any => node.any,
            MethodMatch::Only(method) => node.only.iter().find(|(other, _)| other == method).map(|(_, at)| *at),
        };
        if let Some(first) = taken {
            return Err(RoutesFault::Ambiguous { first: name(first), second: name(index) });
        }
        match method {
            MethodMatch::Any => node.any = Some(index),
            MethodMatch::Only(method) => node.only.push((method.clone(), index)),
        }
        Ok(())
    }

    /// Whether the node was made for exactly this shape, and not merely matches it as a path.
    fn shape_is(&self, shape: &str, node: usize, routes: &[(MethodMatch, Pattern)]) -> bool {
        let Some(node) = self.nodes.get(node) else { return false };
        let member = node.any.or_else(|| node.only.first().map(|(_, index)| *index));
        member.and_then(|index| routes.get(index)).is_some_and(|(_, pattern)| {
            pattern.shape() == shape || pattern.shape_before_catch_all().as_deref() == Some(shape)
        })
    }
}

#[cfg(test)]
mod tests {
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
            Found::Endpoint(index, params) => Some((index, params.iter().map(|(_, value)| value.to_owned()).collect())),
            _ => None,
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes =
            compile(&[("GET", "/users/{id}"), ("GET", "/users/me"), ("*", "/{*rest}"), ("POST", "/users/{name}")])
                .unwrap();
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
}
