//! What is on disk: data sets, run records, manifests.
