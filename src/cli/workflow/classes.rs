//! The node classes as a list and as the table of `docs/workflows.md`.

use std::fmt::Write;

use crate::workflow::class::{Class, Kind, Runs};
use crate::workflow::registry;

/// One line a class.
pub fn list() -> String {
    let mut text = String::new();
    for class in registry::all() {
        let (state, reason) = state(class);
        let _ = writeln!(
            text,
            "{:<34} {:<24} {state}{}{reason}",
            class.name,
            class.pack,
            if reason.is_empty() { "" } else { ": " }
        );
    }
    text
}

/// The table of classes, between its two marks.
pub fn markdown() -> String {
    let mut text =
        String::from("| class | pack | state | live widgets | reason, limits |\n| --- | --- | --- | --- | --- |\n");
    let mut classes: Vec<&Class> = registry::all().collect();
    classes.sort_by_key(|class| (class.pack != "core", class.pack, class.name));
    for class in classes {
        let (state, reason) = state(class);
        let live: Vec<&str> = class.inputs.iter().filter(|input| input.live).map(|input| input.name).collect();
        let ignored: Vec<&str> = class
            .inputs
            .iter()
            .filter(|input| input.ignored && !matches!(input.kind, Kind::Link(_)))
            .map(|input| input.name)
            .collect();
        let mut says = reason.to_owned();
        if !ignored.is_empty() {
            let _ = write!(says, "{}No effect: {}.", if says.is_empty() { "" } else { " " }, ignored.join(", "));
        }
        let _ = writeln!(text, "| {} | {} | {state} | {} | {says} |", class.name, class.pack, live.join(", "));
    }
    text
}

fn state(class: &Class) -> (&'static str, &'static str) {
    match class.runs {
        Runs::Graph | Runs::Alone => ("graph", class.note),
        Runs::Held => ("loaded", class.note),
        Runs::Host => ("host", class.note),
        Runs::Refused(reason) => ("refused", reason),
    }
}
