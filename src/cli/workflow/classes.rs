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
        Runs::Host | Runs::Sound | Runs::Text => ("host", class.note),
        Runs::Stage => ("stage", class.note),
        Runs::Refused(reason) => ("refused", reason),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::workflow::Why;
    use crate::workflow::examine::{Verdict, examine};

    /// What each of the shipped workflows computes.
    const SHIPPED: [(&str, &str); 16] = [
        ("load-preview-image", "the picture as it is"),
        ("tensor-utils", "the picture as it is"),
        ("audio-tensor-utils", "sound four semitones higher"),
        ("audio-transcription", "speech to timed text"),
        ("depth-anything-v2", "a depth map"),
        ("depth-background-black", "what is near, on black"),
        ("depth-background-blur", "what is near, the rest blurred"),
        ("sd15-tensorrt", "a restyle along the depth"),
        ("sd15-tensorrt-depth-large", "the same with a larger depth model"),
        ("sd15-tensorrt-depth-mask", "a restyle of what is near"),
        ("sd15-multi-controlnet-face", "a sketch along depth and face mesh"),
        ("sd15-multi-controlnet-face-dynamic", "the same, 448 x 704"),
        ("sd15-multi-controlnet-outfit", "other clothes"),
        ("sd15-regional-lora", "one LoRA inside a mask, another outside"),
        ("liveportrait", "a portrait that moves as the camera does"),
        ("sd15-live-portrait-lip", "a restyle with the camera's lips"),
    ];

    fn shipped() -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration-tests/workflows/shipped");
        let mut text = String::from("| workflow | computes | state |\n| --- | --- | --- |\n");
        for (name, computes) in SHIPPED {
            let file = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
            let workflow: Value = serde_json::from_str(&file).unwrap();
            // Without models: what runs then needs none.
            let examined = examine(&workflow, Path::new("/nonexistent"), [512, 512]);
            let state = match examined.verdict() {
                Verdict::Runs => "runs".to_owned(),
                Verdict::ModelsMissing => "runs with its models".to_owned(),
                Verdict::Refused => {
                    let reasons = examined.refused.0.iter().filter(|refusal| refusal.why != Why::Model);
                    // The pictures that a workflow names are not in this repository.
                    let mut classes: Vec<&str> = reasons.map(|refusal| refusal.class.as_str()).collect();
                    classes.sort_unstable();
                    classes.dedup();
                    format!("refused: {}", classes.join(", "))
                }
            };
            let _ = writeln!(text, "| {name} | {computes} | {state} |");
        }
        text
    }

    /// `text` with what stands between the marks of `name` replaced.
    fn replaced(text: &str, name: &str, with: &str) -> String {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = text.split_once(&begin).unwrap();
        let (_, after) = rest.split_once(&end).unwrap();
        format!("{before}{begin}\n{with}\n{end}{after}")
    }

    #[test]
    fn the_tables_of_the_documentation_are_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/workflows.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let current = replaced(&replaced(&text, "classes", &markdown()), "shipped", &shipped());
        if std::env::var_os("WEIR_UPDATE_DOCS").is_some() {
            std::fs::write(&path, current).unwrap();
            return;
        }
        assert!(
            text == current,
            "docs/workflows.md is out of date; write its tables anew with \
             `WEIR_UPDATE_DOCS=1 cargo test --lib tables_of_the_documentation`"
        );
    }
}
