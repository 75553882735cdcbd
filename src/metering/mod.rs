//! metering: being built.
