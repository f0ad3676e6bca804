//! The patterns of one product as a tree of segments in flat arrays: a step reads one place and one node, as a rule a line of
//! memory each. Knows methods as small numbers and endpoints as large ones; which of them a request gets is not decided here.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use super::captures::Captures;
use crate::pattern::Segment;

/// The number of no node.
const NONE: u32 = u32::MAX;
/// The first node.
const ROOT: u32 = 0;
/// Bytes of a segment that its node holds itself; more would make a node larger than half a line.
const TEXT_INLINE: usize = 11;
/// In `places_bits` of a node with one literal child or with none, which `places_at` then names.
const NO_PLACES: u8 = 0;

/// A method, and the endpoint that it has.
pub(super) type Choice = (u8, u32);

/// A tree as it grows: nodes by their number, the root is the first.
pub(super) struct Growing<'a> {
    nodes: Vec<GrowingNode<'a>>,
}

#[derive(Default)]
struct GrowingNode<'a> {
    literals: BTreeMap<&'a str, usize>,
    parameter: Option<usize>,
    catch_all: Option<usize>,
    choices: Vec<Choice>,
}

/// As requests find it. Nodes stand in the order of a walk, so that what follows a parameter stands beside it.
#[derive(Clone, Default)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    places: Box<[Place]>,
    /// Of nodes that have several.
    choices: Box<[Choice]>,
    /// Segments that are too long for their nodes.
    texts: Box<[u8]>,
    /// Keyed, since publishers choose the segments.
    hasher: RandomState,
}

#[repr(align(32))]
#[derive(Clone, Copy)]
struct Node {
    /// The segment itself, or in its first four bytes where it begins among the texts.
    text: [u8; TEXT_INLINE],
    text_bytes: u16,
    /// How many choices there are; one stands here, several stand in their list from `endpoint` on.
    choices: u8,
    method: u8,
    endpoint: u32,
    /// Literal children: an only one is named by `places_at` itself, several are in a hash table of 2^bits places that begins there.
    places_bits: u8,
    places_at: u32,
    parameter: u32,
    catch_all: u32,
}

const _: () = assert!(size_of::<Node>() == 32);

/// Of a literal child: the top half of its text's hash, and its node.
#[derive(Clone, Copy)]
struct Place {
    tag: u32,
    node: u32,
}

const FREE: Place = Place { tag: 0, node: NONE };

/// Where a path ends.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'t> {
    tree: &'t Tree,
    node: &'t Node,
}

impl<'a> Growing<'a> {
    pub(super) fn new() -> Growing<'a> {
        Growing { nodes: vec![GrowingNode::default()] }
    }

    /// The choices where these segments lead, which begin there if nothing led there yet.
    pub(super) fn choices_at(&mut self, segments: impl Iterator<Item = &'a Segment>) -> &mut Vec<Choice> {
        let mut at = 0;
        for segment in segments {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { break };
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text).or_insert(next),
                Segment::Parameter(_) => *node.parameter.get_or_insert(next),
                Segment::CatchAll(_) => *node.catch_all.get_or_insert(next),
            };
            if at == next {
                self.nodes.push(GrowingNode::default());
            }
        }
        // There is a root, and every number that was given is that of a node.
        #[allow(clippy::indexing_slicing)]
        &mut self.nodes[at].choices
    }

    pub(super) fn finish(&self) -> Tree {
        let mut flat = Flat { grown: &self.nodes, ..Flat::default() };
        flat.add(0, "");
        Tree {
            nodes: flat.nodes.into_boxed_slice(),
            places: flat.places.into_boxed_slice(),
            choices: flat.choices.into_boxed_slice(),
            texts: flat.texts.into_boxed_slice(),
            hasher: flat.hasher,
        }
    }
}

/// The arrays while they are filled.
#[derive(Default)]
struct Flat<'a> {
    grown: &'a [GrowingNode<'a>],
    nodes: Vec<Node>,
    places: Vec<Place>,
    choices: Vec<Choice>,
    texts: Vec<u8>,
    hasher: RandomState,
}

impl Flat<'_> {
    /// A node and all below it; as deep as a pattern has segments. Answers its number.
    fn add(&mut self, grown: usize, text: &str) -> u32 {
        let Some(grown) = self.grown.get(grown) else { return NONE };
        let number = small(self.nodes.len());
        let node = self.node(grown, text);
        self.nodes.push(node);
        let parameter = grown.parameter.map_or(NONE, |child| self.add(child, ""));
        let catch_all = grown.catch_all.map_or(NONE, |child| self.add(child, ""));
        let places_at = match node.places_bits {
            NO_PLACES => grown.literals.first_key_value().map_or(NONE, |(text, child)| self.add(*child, text)),
            bits => self.add_places(&grown.literals, 1 << bits),
        };
        if let Some(node) = self.nodes.get_mut(large(number)) {
            (node.parameter, node.catch_all, node.places_at) = (parameter, catch_all, places_at);
        }
        number
    }

    /// A table of literal children, and all below them. Answers where it begins.
    fn add_places(&mut self, literals: &BTreeMap<&str, usize>, places: usize) -> u32 {
        let from = self.places.len();
        let to = from + places;
        self.places.resize(to, FREE);
        for (text, child) in literals {
            let child = self.add(*child, text);
            let (tag, low) = halves(self.hasher.hash_one(text.as_bytes()));
            let table = self.places.get_mut(from..to).unwrap_or_default();
            if let Some(free) = chain(low, places).find(|at| table.get(*at).is_some_and(|it| it.node == NONE)) {
                table.get_mut(free).into_iter().for_each(|free| *free = Place { tag, node: child });
            }
        }
        small(from)
    }

    /// Without its children.
    fn node(&mut self, grown: &GrowingNode<'_>, text: &str) -> Node {
        let (method, endpoint) = match grown.choices.as_slice() {
            [] => (0, NONE),
            [one] => *one,
            several => {
                let at = small(self.choices.len());
                self.choices.extend_from_slice(several);
                (0, at)
            }
        };
        let mut inline = [0; TEXT_INLINE];
        let at = small(self.texts.len()).to_le_bytes();
        let held = if text.len() <= TEXT_INLINE { text.as_bytes() } else { at.as_slice() };
        inline.iter_mut().zip(held).for_each(|(to, from)| *to = *from);
        if text.len() > TEXT_INLINE {
            self.texts.extend_from_slice(text.as_bytes());
        }
        let children = grown.literals.len();
        // A quarter more places than children, so that the chains are short.
        let places = if children > 1 { (children + children / 4).next_power_of_two() } else { 1 };
        Node {
            text: inline,
            text_bytes: u16::try_from(text.len()).unwrap_or(u16::MAX),
            choices: u8::try_from(grown.choices.len()).unwrap_or(u8::MAX),
            method,
            endpoint,
            places_bits: u8::try_from(places.trailing_zeros()).unwrap_or(NO_PLACES),
            places_at: NONE,
            parameter: NONE,
            catch_all: NONE,
        }
    }
}

impl Tree {
    /// Where a path leads, and what its parameters stand for: the most specific pattern that matches it, segment by segment a
    /// literal before a parameter before a catch-all. None of them is ever empty.
    pub(super) fn find<'p>(&self, path: &'p str) -> Option<(Leaf<'_>, Captures<'p>)> {
        let mut captures = Captures::none_of(path)?;
        let node = self.descend(ROOT, 1, &mut captures)?;
        Some((Leaf { tree: self, node }, captures))
    }

    /// `from` is where the next segment begins. Comes to each node once at most, whatever the path.
    fn descend(&self, node: u32, from: usize, captures: &mut Captures<'_>) -> Option<&Node> {
        let node = self.node(node)?;
        let rest = captures.path().get(from..)?;
        let slash = rest.bytes().position(|byte| byte == b'/');
        let segment = rest.get(..slash.unwrap_or(rest.len()))?;
        let onward = |child: u32, captures: &mut Captures<'_>| match slash {
            Some(slash) => self.descend(child, from + slash + 1, captures),
            None => self.node(child).filter(|node| node.choices > 0),
        };
        let literal = self.literal(node, segment);
        if let Some(found) = literal.and_then(|child| onward(child, captures)) {
            return Some(found);
        }
        if node.parameter != NONE && !segment.is_empty() {
            captures.push(from, segment.len());
            if let Some(found) = onward(node.parameter, captures) {
                return Some(found);
            }
            captures.pop();
        }
        if node.catch_all == NONE || rest.is_empty() {
            return None;
        }
        captures.push(from, rest.len());
        self.node(node.catch_all)
    }

    fn literal(&self, node: &Node, segment: &str) -> Option<u32> {
        if node.places_bits == NO_PLACES {
            return self.is_text(node.places_at, segment).then_some(node.places_at);
        }
        let at = large(node.places_at);
        let places = self.places.get(at..at + (1 << node.places_bits))?;
        let (tag, low) = halves(self.hasher.hash_one(segment.as_bytes()));
        for place in chain(low, places.len()).map_while(|at| places.get(at)) {
            if place.node == NONE {
                return None;
            }
            if place.tag == tag && self.is_text(place.node, segment) {
                return Some(place.node);
            }
        }
        None
    }

    fn is_text(&self, node: u32, segment: &str) -> bool {
        let Some(node) = self.node(node) else { return false };
        let bytes = usize::from(node.text_bytes);
        let text = if bytes <= TEXT_INLINE {
            node.text.get(..bytes)
        } else {
            let [a, b, c, d, ..] = node.text;
            let at = large(u32::from_le_bytes([a, b, c, d]));
            self.texts.get(at..at + bytes)
        };
        text == Some(segment.as_bytes())
    }

    fn node(&self, number: u32) -> Option<&Node> {
        self.nodes.get(large(number))
    }
}

impl Leaf<'_> {
    /// In the order in which they were given.
    pub(super) fn choices(&self) -> impl Iterator<Item = Choice> {
        let node = self.node;
        let one = (node.choices == 1).then_some((node.method, node.endpoint));
        let at = large(node.endpoint);
        let several = if node.choices > 1 { self.tree.choices.get(at..at + usize::from(node.choices)) } else { None };
        one.into_iter().chain(several.unwrap_or_default().iter().copied())
    }
}

/// Places in the order in which they are tried: each once, from that of the hash on. `places` is a power of two.
fn chain(hash: u32, places: usize) -> impl Iterator<Item = usize> {
    (0..places).map(move |step| (large(hash) + step) & (places - 1))
}

/// The top half of a hash, and the bottom half.
fn halves(hash: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// A place in an array; beyond four thousand million there is none, and nothing is found there.
fn small(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}

fn large(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
