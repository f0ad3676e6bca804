//! Fleet rate limits as pure state machines: time and messages come in, decisions and messages go out. Refuses to know a
//! clock, a socket, a runtime, Redis itself, or chance; whoever drives it brings those.
//!
//! Reading order: what is promised (`policy`, `terms`, `bound`) and what was seen to be beyond it (`overshoot`), a node's side
//! from the hottest part outwards (`slot`, `demand`, `share`, `ledger`, `link`, `syncer`), the words between the two (`wire`),
//! Redis' side as a model (`central`) and as it runs (`script`), and what a client is told (`answer`).

pub mod bound;
pub mod overshoot;
pub mod policy;
pub mod terms;

pub mod demand;
pub mod ledger;
pub mod link;
pub mod share;
pub mod slot;
pub mod syncer;

pub mod central;
pub mod script;
pub mod wire;

pub mod answer;

mod mutant;
#[cfg(test)]
#[cfg(not(loom))]
mod simulation;
mod sync;
