//! Several ranks that train together: who they are, how they find each other, and what they compute together.
//!
//! The micro-batches of an update are dealt out over the ranks, so that a recipe means the same with any number of ranks.
//! With replicated parameters (DDP) gradients are summed over all ranks; with sharding (FSDP) every rank also holds only
//! its part of the frozen blocks and of the optimizer's states, or, where all parameters are trained, of parameters,
//! gradients and states.

mod collective;
#[cfg(feature = "cuda")]
mod cuda;
mod distribute;
mod door;
mod exchange;
mod frames;
mod greeting;
mod launch;
mod partition;
mod ranks;
mod rendezvous;
mod secret;
mod sharded;
#[doc(hidden)]
pub mod strangers;
mod tcp;
mod thread;
mod unit;
mod units;

pub use collective::{Collective, Host, agree, all_gather_f64};
pub(crate) use collective::{from_bytes, to_bytes};
pub use distribute::Distribute;
pub use exchange::{Bytes, Exchange, Single};
pub(crate) use frames::FACTS;
pub use launch::Launch;
pub use partition::Partition;
pub use ranks::Ranks;
pub use secret::Secret;
pub use sharded::Sharded;
pub use tcp::TcpExchange;
pub use thread::ThreadExchange;
pub use unit::{Elements, Gathered, Ready, Unit};
pub use units::{UnitSink, Units};
