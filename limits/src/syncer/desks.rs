//! The keys that a syncer serves, each at a place that stays its own until it is given up. A place that was given up stands for
//! nothing, even when its number serves another key. Refuses to know messages.

use crate::ledger::Ledger;

/// A key's place in its syncer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    index: usize,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Desk<S> {
    pub(super) slot: S,
    pub(super) ledger: Ledger,
    /// Stands in the queue of those that called.
    pub(super) called: bool,
    pub(super) due_ns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Desks<S> {
    seats: Vec<(u64, Option<Desk<S>>)>,
    free: Vec<usize>,
}

impl<S> Desks<S> {
    pub(super) fn new() -> Self {
        Desks { seats: Vec::new(), free: Vec::new() }
    }

    pub(super) fn open(&mut self, slot: S, ledger: Ledger) -> Place {
        let desk = Desk { slot, ledger, called: false, due_ns: None };
        if let Some(index) = self.free.pop()
            && let Some((generation, seat)) = self.seats.get_mut(index)
        {
            *generation += 1;
            *seat = Some(desk);
            return Place { index, generation: *generation };
        }
        self.seats.push((0, Some(desk)));
        Place { index: self.seats.len() - 1, generation: 0 }
    }

    pub(super) fn close(&mut self, place: Place) {
        if self.get(place).is_some()
            && let Some((_, seat)) = self.seats.get_mut(place.index)
        {
            *seat = None;
            self.free.push(place.index);
        }
    }

    pub(super) fn get(&self, place: Place) -> Option<&Desk<S>> {
        let (generation, desk) = self.seats.get(place.index)?;
        desk.as_ref().filter(|_| *generation == place.generation)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Desk<S>> {
        let (generation, desk) = self.seats.get_mut(place.index)?;
        desk.as_mut().filter(|_| *generation == place.generation)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Desk<S>> {
        self.seats.iter().filter_map(|(_, desk)| desk.as_ref())
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let taken = self.seats.iter().enumerate().filter(|(_, (_, desk))| desk.is_some());
        taken.map(|(index, (generation, _))| Place { index, generation: *generation }).collect()
    }
}
