//! Things that others refer to by a small number instead of their name: one step instead of a search. A number is given at the
//! first mention, be the thing there or not, and is free again when it is gone and nothing refers to it any more.

use std::hash::{BuildHasher, Hash};

use super::cow::CowMap;
use super::paged::PagedList;

#[derive(Clone)]
pub(crate) struct Numbered<K, V, S> {
    numbers: CowMap<K, u32, S>,
    slots: PagedList<Slot<K, V>>,
    /// The first of the free slots; each names the next.
    free: Option<u32>,
    present: usize,
}

#[derive(Clone)]
enum Slot<K, V> {
    Free { next: Option<u32> },
    Used { key: K, references: u32, value: Option<V> },
}

/// What was read does not fit together.
#[derive(Debug, thiserror::Error)]
#[error("numbers are given twice, too large, or refer to nothing")]
pub struct NumbersFault;

impl<K, V> Default for Slot<K, V> {
    fn default() -> Self {
        Slot::Free { next: None }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Clone> Numbered<K, V, S> {
    pub(crate) fn new(hasher: S) -> Numbered<K, V, S> {
        Numbered { numbers: CowMap::new(hasher), slots: PagedList::new(), free: None, present: 0 }
    }

    /// How many things there are.
    pub(crate) fn len(&self) -> usize {
        self.present
    }

    /// Numbers below which all lie.
    pub(crate) fn numbers(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&V> {
        match self.slots.get(place(number))? {
            Slot::Used { value, .. } => value.as_ref(),
            Slot::Free { .. } => None,
        }
    }

    pub(crate) fn by_key(&self, key: &K) -> Option<&V> {
        self.get(*self.numbers.get(key)?)
    }

    pub(crate) fn key_of(&self, number: u32) -> Option<&K> {
        match self.slots.get(place(number))? {
            Slot::Used { key, .. } => Some(key),
            Slot::Free { .. } => None,
        }
    }

    /// Puts a thing in, made for its number. Answers what was there under its key.
    pub(crate) fn put(&mut self, key: &K, make: impl FnOnce(u32) -> V) -> Option<V> {
        let number = self.number(key);
        let Some(Slot::Used { value, .. }) = self.slots.get_mut(place(number)) else { return None };
        let before = value.replace(make(number));
        self.present += usize::from(before.is_none());
        before
    }

    /// Those who refer to it keep its number.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let number = *self.numbers.get(key)?;
        let Some(Slot::Used { value, references, .. }) = self.slots.get_mut(place(number)) else { return None };
        let (before, references) = (value.take(), *references);
        self.present -= usize::from(before.is_some());
        if references == 0 {
            self.vacate(number);
        }
        before
    }

    /// One more refers to the thing of this name.
    pub(crate) fn refer(&mut self, key: &K) -> u32 {
        let number = self.number(key);
        if let Some(Slot::Used { references, .. }) = self.slots.get_mut(place(number)) {
            *references = references.saturating_add(1);
        }
        number
    }

    /// One less refers to it.
    pub(crate) fn let_go(&mut self, number: u32) {
        let Some(Slot::Used { references, value, .. }) = self.slots.get_mut(place(number)) else { return };
        *references = references.saturating_sub(1);
        if *references == 0 && value.is_none() {
            self.vacate(number);
        }
    }

    /// What is there, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used { value, .. } => value.as_ref(),
            Slot::Free { .. } => None,
        })
    }

    /// The numbers that are given, in their order.
    pub(crate) fn given(&self) -> impl Iterator<Item = (u32, &K)> {
        (0u32..).zip(self.slots.iter()).filter_map(|(number, slot)| match slot {
            Slot::Used { key, .. } => Some((number, key)),
            Slot::Free { .. } => None,
        })
    }

    /// For an empty one: gives a number as it was given before. In the order of the numbers.
    pub(crate) fn give_again(&mut self, number: u32, key: &K) -> Result<(), NumbersFault> {
        /// Numbers beyond what is given that one gap may have: a damaged one must not fill the memory.
        const GAP_MAX: usize = 1 << 26;
        let gap = place(number).checked_sub(self.slots.len()).ok_or(NumbersFault)?;
        if gap > GAP_MAX || self.numbers.insert(key.clone(), number).is_some() {
            return Err(NumbersFault);
        }
        for _ in 0..gap {
            let vacant = u32::try_from(self.slots.len()).map_err(|_| NumbersFault)?;
            self.slots.push(Slot::Free { next: self.free.replace(vacant) });
        }
        self.slots.push(Slot::Used { key: key.clone(), references: 0, value: None });
        Ok(())
    }

    /// Sets how many refer to each number, and frees those that stand for nothing.
    pub(crate) fn count_references(&mut self, counts: &[u32]) -> Result<(), NumbersFault> {
        for (number, count) in (0u32..).zip(counts).filter(|(_, count)| **count > 0) {
            match self.slots.get_mut(place(number)) {
                Some(Slot::Used { references, .. }) => *references = *count,
                _ => return Err(NumbersFault),
            }
        }
        let stands_for_nothing = |slot: &Slot<K, V>| matches!(slot, Slot::Used { references: 0, value: None, .. });
        let empty = (0u32..).zip(self.slots.iter()).filter(|(_, slot)| stands_for_nothing(slot));
        for number in empty.map(|(number, _)| number).collect::<Vec<_>>() {
            self.vacate(number);
        }
        Ok(())
    }

    fn number(&mut self, key: &K) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let slot = Slot::Used { key: key.clone(), references: 0, value: None };
        let number = match self.free {
            Some(number) => {
                if let Some(vacant) = self.slots.get_mut(place(number)) {
                    self.free = match vacant {
                        Slot::Free { next } => *next,
                        Slot::Used { .. } => None,
                    };
                    *vacant = slot;
                }
                number
            }
            None => {
                // Four billion things would not fit into memory.
                let number = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                self.slots.push(slot);
                number
            }
        };
        self.numbers.insert(key.clone(), number);
        number
    }

    fn vacate(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(place(number)) else { return };
        let next = self.free.replace(number);
        if let Slot::Used { key, .. } = std::mem::replace(slot, Slot::Free { next }) {
            self.numbers.remove(&key);
        }
    }
}

/// A number always fits where memory has more than 32 bits of address.
fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id_hash::IdState;

    type Names = Numbered<u64, &'static str, IdState>;

    fn given(names: &Names) -> Vec<(u32, u64)> {
        names.given().map(|(number, key)| (number, *key)).collect()
    }

    #[test]
    fn a_number_stays_while_anything_refers_to_it_and_is_then_given_to_another() {
        let mut names = Names::new(IdState);
        let seven = names.refer(&7);
        assert_eq!((names.get(seven), names.len()), (None, 0), "mentioned before it is there");
        assert_eq!(names.put(&7, |_| "seven"), None);
        assert_eq!((names.get(seven), names.by_key(&7)), (Some(&"seven"), Some(&"seven")));
        let older = names.clone();
        assert_eq!(names.remove(&7), Some("seven"));
        names.put(&8, |_| "eight");
        assert_eq!(names.get(seven), None, "who referred to seven does not find eight");
        assert_eq!(names.put(&7, |number| if number == seven { "again" } else { "elsewhere" }), None);
        names.remove(&7);
        names.let_go(seven);
        assert_eq!(names.refer(&9), seven);
        assert_eq!((older.get(seven), older.len(), names.len()), (Some(&"seven"), 1, 1));
    }

    #[test]
    fn given_again_after_a_restart_the_numbers_are_the_same_and_the_gaps_are_used_first() {
        let mut names = Names::new(IdState);
        for key in 0..300 {
            names.put(&key, |_| "there");
        }
        for key in (0..300).filter(|key| key % 3 == 0) {
            names.remove(&key);
        }
        let mut again = Names::new(IdState);
        for (number, key) in given(&names) {
            again.give_again(number, &key).unwrap();
        }
        again.put(&1, |_| "there");
        let mut counts = vec![0; 300];
        counts[2] = 5;
        again.count_references(&counts).unwrap();
        assert_eq!(given(&again), [(1, 1), (2, 2)], "what nobody has and nobody refers to is free");
        assert!((2..300).all(|key| again.refer(&(1_000 + key)) < 300));
        assert!(again.give_again(1, &77).is_err() && again.count_references(&[0; 2_000]).is_ok());
        assert!(again.count_references(&[1; 2_000]).is_err(), "they refer to what is not there");
    }
}
