//! What one rank of a run works with.

use std::{sync::Arc, time::Duration};

use super::{Collective, Exchange, Host, Launch, Single, TcpExchange, ThreadExchange};
use crate::{TrainingError, backend::Backend};

/// The connections of one rank: one for gradients and control, one for the gathering of weights, so that neither gets
/// between the other's operations.
pub struct Ranks {
    pub(crate) control: Arc<Host<Box<dyn Exchange>>>,
    pub(crate) weights: Box<dyn Exchange>,
    /// Whether the run is to go on from its latest checkpoint.
    pub(crate) resume: bool,
    /// The number of this rank on its host, if its launcher gave it one.
    local: Option<usize>,
}

impl Ranks {
    fn new(control: impl Exchange + 'static, weights: impl Exchange + 'static) -> Self {
        Self { control: Arc::new(Host(Box::new(control))), weights: Box::new(weights), resume: false, local: None }
    }

    /// The same ranks of a run that goes on where it was: a checkpoint of another one is refused before anything is read.
    pub fn resuming(self, resume: bool) -> Self {
        Self { resume, ..self }
    }

    /// A run of one rank.
    pub fn single() -> Self {
        Self::new(Single, Single)
    }

    /// A group of ranks as threads of this process, one each.
    pub fn threads(world: usize) -> Vec<Self> {
        let pairs = ThreadExchange::group(world).into_iter().zip(ThreadExchange::group(world));
        pairs.map(|(control, weights)| Self::new(control, weights)).collect()
    }

    /// Meets the other processes of a run; `tell` hears of connections that are not of it.
    ///
    /// # Errors
    /// [`TrainingError::Launch`] if they do not all come within `patience`.
    pub fn connect(launch: &Launch, patience: Duration, tell: &dyn Fn(&str)) -> Result<Self, TrainingError> {
        let [control, weights] = TcpExchange::connect(launch, patience, tell)?;
        Ok(Self { local: launch.local_rank, ..Self::new(control, weights) })
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.control.0.rank()
    }

    /// Number of ranks.
    pub fn world(&self) -> usize {
        self.control.0.world()
    }

    /// The number of this rank on its host, if its launcher gave it one.
    pub fn local(&self) -> Option<usize> {
        self.local
    }

    /// The operations of all ranks on buffers of a backend.
    pub fn collective<B: Backend>(&self) -> Arc<dyn Collective<B>> {
        Arc::clone(&self.control) as Arc<dyn Collective<B>>
    }

    /// Tells the other ranks that this one ends with an error.
    pub fn abort(&self, message: &str) {
        self.control.0.abort(message);
    }
}
