//! What another plan asks of graphs that stand.

use super::lower::WidgetRef;
use super::plan::{Fed, Plan};

/// What lies between two plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These widgets; empty for none. Nodes have the same places in both plans.
    Widgets(Vec<WidgetRef>),
    /// Other nodes or other links.
    Graph,
}

/// Compares two plans. Titles, ids and inputs without effect make no difference.
pub fn change(old: &Plan, new: &Plan) -> Change {
    if old.nodes.len() != new.nodes.len() {
        return Change::Graph;
    }
    let mut widgets = Vec::new();
    for (node, (a, b)) in old.nodes.iter().zip(&new.nodes).enumerate() {
        if !std::ptr::eq(a.class, b.class) {
            return Change::Graph;
        }
        for (input, (x, y)) in a.inputs.iter().zip(&b.inputs).enumerate() {
            match (x, y) {
                _ if x == y || a.class.inputs[input].ignored => {}
                (Fed::Set(_), Fed::Set(_)) => widgets.push(WidgetRef { node, input }),
                _ => return Change::Graph,
            }
        }
    }
    Change::Widgets(widgets)
}
