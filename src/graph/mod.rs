//! graph: being built.
