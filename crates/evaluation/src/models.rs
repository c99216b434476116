//! Models: from what a name stands for to one that answers.

mod lineage;
mod load;
mod merge;
mod model;
mod ready;
mod texts;

pub use lineage::{caveats, trained_template};
pub use load::{Loader, Missing, Place, Trained, Trainer};
pub use merge::merge;
pub use model::Model;
pub use ready::Ready;
pub use texts::{sources, template_of};
