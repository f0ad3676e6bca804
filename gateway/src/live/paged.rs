//! A list that is cheap to copy and cheap to change: pages of 64 places under arrays of 256 pages, of which a change copies one
//! each. A place keeps its number for ever. Knows nothing of what it holds.

use std::sync::Arc;

/// A change copies one page, and with it touches all that its places refer to.
const PAGE: usize = 64;
const PAGES: usize = 256;
const GROUP: usize = PAGE * PAGES;

type Page<T> = Arc<[T; PAGE]>;
type Group<T> = Arc<[Page<T>; PAGES]>;

#[derive(Clone)]
pub(crate) struct PagedList<T> {
    groups: Arc<Vec<Group<T>>>,
    blank: Page<T>,
    len: usize,
}

impl<T: Clone + Default> PagedList<T> {
    pub(crate) fn new() -> PagedList<T> {
        PagedList { groups: Arc::default(), blank: Arc::new(std::array::from_fn(|_| T::default())), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.groups.get(place / GROUP)?.get(place / PAGE % PAGES)?.get(place % PAGE)
    }

    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        let group = Arc::make_mut(&mut self.groups).get_mut(place / GROUP)?;
        let page = Arc::make_mut(group).get_mut(place / PAGE % PAGES)?;
        Arc::make_mut(page).get_mut(place % PAGE)
    }

    pub(crate) fn push(&mut self, value: T) {
        if self.len == self.groups.len() * GROUP {
            let blank = &self.blank;
            let group = Arc::new(std::array::from_fn(|_| Arc::clone(blank)));
            Arc::make_mut(&mut self.groups).push(group);
        }
        if let Some(place) = self.get_mut(self.len) {
            *place = value;
        }
        self.len += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|page| page.iter()).take(self.len)
    }
}
