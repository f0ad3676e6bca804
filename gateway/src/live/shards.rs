//! 4,096 leaves in two levels that copies share: a change copies the two arrays above its leaf, and readers of an older copy
//! see nothing of it. Knows nothing of what a leaf holds.

use std::sync::Arc;

/// Children of each of the two levels.
const FANOUT: usize = 64;
const FANOUT_BITS: u32 = FANOUT.trailing_zeros();
/// Leaves in all, so that of 10 million entries a change copies about 2,400.
pub(crate) const SHARDS: usize = FANOUT * FANOUT;
pub(crate) const SHARD_BITS: u32 = 2 * FANOUT_BITS;

type Branch<T> = Arc<[Arc<T>; FANOUT]>;

pub(crate) struct Shards<T> {
    root: Arc<[Branch<T>; FANOUT]>,
}

impl<T> Clone for Shards<T> {
    fn clone(&self) -> Self {
        Shards { root: Arc::clone(&self.root) }
    }
}

impl<T> Shards<T> {
    /// All leaves are this one.
    pub(crate) fn filled_with(leaf: T) -> Shards<T> {
        let leaf = Arc::new(leaf);
        let branch: Branch<T> = Arc::new(std::array::from_fn(|_| Arc::clone(&leaf)));
        Shards { root: Arc::new(std::array::from_fn(|_| Arc::clone(&branch))) }
    }

    /// `shard` is below [`SHARDS`]; more bits than that are not looked at.
    pub(crate) fn get(&self, shard: usize) -> &T {
        let (high, low) = places(shard);
        // Both places are below the fan-out, as the compiler sees.
        #[allow(clippy::indexing_slicing)]
        &self.root[high][low]
    }

    /// The leaf, for a change in place; copied where another copy of the whole shares it.
    pub(crate) fn get_mut(&mut self, shard: usize) -> &mut T
    where
        T: Clone,
    {
        Arc::make_mut(self.leaf_mut(shard))
    }

    pub(crate) fn set(&mut self, shard: usize, leaf: T) {
        *self.leaf_mut(shard) = Arc::new(leaf);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.root.iter().flat_map(|branch| branch.iter()).map(|leaf| &**leaf)
    }

    /// Whether both are the same copy: nothing was changed in between.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// How many leaves are not shared with `other`.
    #[cfg(test)]
    pub(crate) fn leaves_apart(&self, other: &Self) -> usize {
        self.iter().zip(other.iter()).filter(|(mine, theirs)| !std::ptr::eq(*mine, *theirs)).count()
    }

    fn leaf_mut(&mut self, shard: usize) -> &mut Arc<T> {
        let (high, low) = places(shard);
        #[allow(clippy::indexing_slicing)]
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.root)[high])[low]
    }
}

fn places(shard: usize) -> (usize, usize) {
    ((shard >> FANOUT_BITS) % FANOUT, shard % FANOUT)
}
