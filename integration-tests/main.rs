//! Whole-process and whole-path tests.
