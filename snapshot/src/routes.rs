//! The compiled routes of one product: path and method to endpoint. Publishing and proxying compile with this one
//! function, so that what was accepted is what is served. Never looks beyond one product.

mod captures;
mod tree;

use http::Method;

pub use self::captures::Captures;
use self::tree::{Choice, Growing, Tree};
use crate::pattern::{Pattern, Segment};

/// The methods an endpoint may name; `*` stands for all of them. TRACE and CONNECT are never proxied.
pub static METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// The number of `*`, beside the places among them.
const ANY: u8 = u8::MAX;
/// Of a method that is never proxied: nothing asks for it.
const NEVER: u8 = ANY - 1;

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
}

/// Endpoints are known by their index in the list that was compiled.
#[derive(Clone, Default)]
pub struct ProductRoutes {
    tree: Tree,
}

/// What a product has for a request.
#[derive(Debug)]
pub enum Found<'p> {
    /// Index of the endpoint, and what its pattern's parameters stand for.
    Endpoint(usize, Captures<'p>),
    /// The path exists, but not with this method; for the `Allow` header.
    MethodNotAllowed(Vec<&'static Method>),
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

    fn number(&self) -> u8 {
        match self {
            MethodMatch::Any => ANY,
            MethodMatch::Only(method) => number_of(method).unwrap_or(NEVER),
        }
    }
}

impl ProductRoutes {
    /// Compiles a product's routes. Errors: every pair that matches the same requests.
    pub fn compile(routes: &[(MethodMatch, Pattern)]) -> Result<ProductRoutes, Vec<RoutesFault>> {
        let mut tree = Growing::new();
        let mut faults = Vec::new();
        for (index, (method, pattern)) in (0u32..).zip(routes) {
            let choices = tree.choices_at(pattern.segments().iter());
            if let Err(first) = choose(choices, method.number(), index) {
                faults.push(RoutesFault::Ambiguous { first: name(routes, first), second: name(routes, index) });
            }
        }
        // After all others, since an endpoint of its own for the path before a catch-all comes first.
        let before_it = Segment::Literal(String::new());
        for (index, (method, pattern)) in (0u32..).zip(routes) {
            if let Some((Segment::CatchAll(_), before)) = pattern.segments().split_last() {
                let choices = tree.choices_at(before.iter().chain([&before_it]));
                let _taken_by_an_endpoint_of_its_own = choose(choices, method.number(), index);
            }
        }
        if faults.is_empty() { Ok(ProductRoutes { tree: tree.finish() }) } else { Err(faults) }
    }

    /// Finds the endpoint for a path in normal form: of the most specific pattern that matches it, whatever its methods. A HEAD
    /// request falls back to GET.
    pub fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'p> {
        let Some((leaf, captures)) = self.tree.find(path) else { return Found::Nothing };
        let exact = |wanted: u8| leaf.choices().find(|(method, _)| *method == wanted).map(|(_, endpoint)| endpoint);
        let head_as_get = || if method == Method::HEAD { number_of(&Method::GET).and_then(exact) } else { None };
        let endpoint = number_of(method).and_then(exact).or_else(head_as_get).or_else(|| exact(ANY));
        match endpoint.and_then(|endpoint| usize::try_from(endpoint).ok()) {
            Some(index) => Found::Endpoint(index, captures),
            None => Found::MethodNotAllowed(leaf.choices().filter_map(|(method, _)| method_of(method)).collect()),
        }
    }
}

/// Adds an endpoint. Errors: the one that has the method already.
fn choose(choices: &mut Vec<Choice>, method: u8, endpoint: u32) -> Result<(), u32> {
    if let Some((_, first)) = choices.iter().find(|(other, _)| *other == method) {
        return Err(*first);
    }
    choices.push((method, endpoint));
    Ok(())
}

fn name(routes: &[(MethodMatch, Pattern)], index: u32) -> String {
    let route = usize::try_from(index).ok().and_then(|index| routes.get(index));
    route.map_or_else(String::new, |(method, pattern)| format!("{} {pattern}", method.as_str()))
}

/// Its place among [`METHODS`].
fn number_of(method: &Method) -> Option<u8> {
    (0u8..).zip(&METHODS).find(|(_, known)| *known == method).map(|(number, _)| number)
}

fn method_of(number: u8) -> Option<&'static Method> {
    METHODS.get(usize::from(number))
}

#[cfg(test)]
mod tests;
