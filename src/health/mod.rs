//! health: being built.
