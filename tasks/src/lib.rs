//! Documents to requests to scores: declarative tasks.
