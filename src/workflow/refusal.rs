//! Why a workflow cannot run: every reason at once, each with its place and what would work.

use std::fmt;

use serde::Serialize;

/// What kind of reason it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The document is not a workflow.
    Document,
    /// A limit is passed.
    Limit,
    /// The class is not known, or known and not run.
    Class,
    /// A link is absent, leads nowhere, or carries another type.
    Link,
    /// Nodes feed each other in a circle.
    Cycle,
    /// A widget's value is of the wrong kind or out of its range.
    Value,
    /// A model is not there.
    Model,
    /// The node cannot be lowered with what it is fed.
    Lowering,
}

/// One reason. Where the document as a whole is meant, `node` and `class` are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What kind of reason.
    pub why: Why,
    /// The node's id.
    pub node: String,
    /// Its title, if it has one.
    pub title: String,
    /// Its class.
    pub class: String,
    /// The input, if one is meant.
    pub input: String,
    /// What is wrong.
    pub reason: String,
    /// What would work; may be empty.
    pub help: String,
}

impl Refusal {
    /// A reason that concerns the document as a whole.
    pub fn document(why: Why, reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            why,
            node: String::new(),
            title: String::new(),
            class: String::new(),
            input: String::new(),
            reason: reason.into(),
            help: help.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.node.is_empty() {
            write!(f, "node {}", self.node)?;
            match (self.title.is_empty() || self.title == self.class, self.class.is_empty()) {
                (_, true) => {}
                (true, false) => write!(f, " ({})", self.class)?,
                (false, false) => write!(f, " \"{}\" ({})", self.title, self.class)?,
            }
            if !self.input.is_empty() {
                write!(f, ", input {}", self.input)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

/// Every reason why a workflow cannot run; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused(pub Vec<Refusal>);

impl Refused {
    /// Whether everything that is wrong is that models are missing.
    pub fn only_models(&self) -> bool {
        self.0.iter().all(|refusal| refusal.why == Why::Model)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(vec![refusal])
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{only}"),
            // A rule that the whole document breaks is told first, in ComfyStream's own words.
            [first, more @ ..] if first.node.is_empty() && first.why == Why::Document && !more.is_empty() => {
                write!(f, "{first}\n{} more in this workflow cannot run:", more.len())?;
                more.iter().try_for_each(|refusal| write!(f, "\n- {refusal}"))
            }
            all => {
                write!(f, "{} things in this workflow cannot run:", all.len())?;
                all.iter().try_for_each(|refusal| write!(f, "\n- {refusal}"))
            }
        }
    }
}

impl std::error::Error for Refused {}
