//! What may happen to a fleet each second: every process killed, everything in Redis forgotten, a consumer frozen, every entry
//! twice, no room on a disk. A seed says in which order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use servers::Signal;

use super::stream::Duplicator;
use crate::harness::World;

/// How long a frozen consumer stays so, in seconds: usually a few, now and then longer than its entries are left alone.
const FROZEN_S: std::ops::Range<u64> = 1..5;
const LONG_FROZEN_S: u64 = 36;
/// One freeze in so many is long, where there is time for it.
const LONG_ONE_IN: u64 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillGateway(usize),
    KillControlPlane,
    KillRedis,
    KillPostgres,
    FlushAll,
    FreezeControlPlane,
    DuplicateEntries,
    FillDisk,
    KillGatewayOnFullDisk,
}

const FAULTS: [Fault; 10] = [
    Fault::KillGateway(0),
    Fault::KillGateway(1),
    Fault::KillControlPlane,
    Fault::KillRedis,
    Fault::KillPostgres,
    Fault::FlushAll,
    Fault::FreezeControlPlane,
    Fault::DuplicateEntries,
    Fault::FillDisk,
    Fault::KillGatewayOnFullDisk,
];

/// A small generator of its own, so that a seed means the same for ever.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
        for _ in 0..9 {
            dice.roll(2);
        }
        dice
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What was done, and what of it lasts.
pub struct Chaos {
    dice: Dice,
    is_long: bool,
    /// Each kind once, in an order of the seed's own; then any.
    first: Vec<Fault>,
    pub struck: BTreeMap<Fault, u64>,
    frozen: Option<(usize, Instant)>,
    /// The copies that had been made when entries began to be given twice: it lasts until there are more.
    duplicating_from: Option<u64>,
    pub duplicator: Duplicator,
}

impl Chaos {
    pub fn new(world: &World, seed: u64, is_long: bool) -> Chaos {
        let mut dice = Dice::new(seed);
        let mut first: Vec<Fault> = FAULTS.to_vec();
        for at in (1..first.len()).rev() {
            first.swap(at, usize::try_from(dice.roll(at as u64 + 1)).unwrap());
        }
        let duplicator = Duplicator::start(world.redis.url());
        Chaos { dice, is_long, first, struck: BTreeMap::new(), frozen: None, duplicating_from: None, duplicator }
    }

    /// Ends what the last fault left, where its time has come, and does the next one. Everything runs again afterwards, though
    /// not everything is ready.
    pub async fn strike(&mut self, world: &mut World) {
        self.end_what_lasts(world, false);
        world.gateways.iter_mut().for_each(|gateway| gateway.role.supervise());
        let any = FAULTS[usize::try_from(self.dice.roll(FAULTS.len() as u64)).unwrap()];
        let fault = self.first.pop().unwrap_or(any);
        if self.does(fault, world).await {
            *self.struck.entry(fault).or_default() += 1;
        }
    }

    /// Whether it could be done.
    async fn does(&mut self, fault: Fault, world: &mut World) -> bool {
        match fault {
            Fault::KillGateway(index) => {
                world.gateways[index].role.kill();
                world.gateways[index].role.start_again();
            }
            Fault::KillControlPlane => {
                let index = usize::try_from(self.dice.roll(world.control_planes.len() as u64)).unwrap();
                world.control_planes[index].role.kill();
                self.frozen = self.frozen.filter(|(frozen, _)| *frozen != index);
                tokio::time::sleep(Duration::from_millis(300)).await;
                world.control_planes[index].role.start_again();
            }
            // It keeps nothing: what was in the stream is gone.
            Fault::KillRedis => world.redis.restart().unwrap(),
            // With it end its children.
            Fault::KillPostgres => world.postgres.as_mut().unwrap().restart().unwrap(),
            Fault::FlushAll => world.flush_redis().await,
            Fault::FreezeControlPlane => return self.freeze(world),
            Fault::DuplicateEntries => {
                self.duplicating_from = Some(self.duplicator.copies());
                self.duplicator.set(true);
            }
            Fault::FillDisk => {
                let Some(disk) = &world.small_disk else { return false };
                disk.fill().unwrap();
            }
            Fault::KillGatewayOnFullDisk => return kill_gateway_on_full_disk(world).await,
        }
        true
    }

    /// One at a time: somebody has to count.
    fn freeze(&mut self, world: &World) -> bool {
        if self.frozen.is_some() {
            return false;
        }
        let index = usize::try_from(self.dice.roll(world.control_planes.len() as u64)).unwrap();
        world.control_planes[index].role.signal(Signal::STOP);
        let is_long = self.is_long && self.dice.roll(LONG_ONE_IN) == 0;
        let some = FROZEN_S.start + self.dice.roll(FROZEN_S.end - FROZEN_S.start);
        let seconds = if is_long { LONG_FROZEN_S } else { some };
        self.frozen = Some((index, Instant::now() + Duration::from_secs(seconds)));
        true
    }

    pub fn end_what_lasts(&mut self, world: &World, all: bool) {
        if self.duplicating_from.take_if(|from| all || self.duplicator.copies() > *from).is_some() {
            self.duplicator.set(false);
        }
        if let Some(disk) = &world.small_disk {
            disk.make_room();
        }
        if let Some((index, _)) = self.frozen.take_if(|(_, until)| all || Instant::now() >= *until) {
            world.control_planes[index].role.signal(Signal::CONT);
        }
    }
}

/// Without room for its rings it takes over what it was killed with, to free some; where that is not enough it ends, and says so.
async fn kill_gateway_on_full_disk(world: &mut World) -> bool {
    let Some(disk) = &world.small_disk else { return false };
    let gateway = &mut world.gateways[0].role;
    disk.fill().unwrap();
    gateway.kill();
    gateway.start_again();
    let ended = gateway.ready_or_ended().await;
    assert!(ended.is_none_or(|status| !status.success()), "it ended as if all were well");
    disk.make_room();
    gateway.supervise();
    true
}
