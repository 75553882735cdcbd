//! A plan as a picture: columns from what comes in to what goes out, one colour for each place.

use std::fmt::Write;

use super::class::Kind;
use super::plan::{Fed, Node, Place, Plan};

const WIDTH: usize = 210;
const GAP: usize = 70;
const LINE: usize = 15;
const HEAD: usize = 36;

struct Box {
    x: usize,
    y: usize,
    height: usize,
}

/// `plan` as an SVG document. Everything that comes from the workflow is escaped.
pub fn svg(plan: &Plan) -> String {
    let mut columns = vec![0; plan.nodes.len()];
    for (i, node) in plan.nodes.iter().enumerate() {
        let before = node.inputs.iter().filter_map(|fed| match fed {
            Fed::Link { node, .. } => Some(columns[*node] + 1),
            _ => None,
        });
        columns[i] = before.max().unwrap_or(0);
    }
    let mut boxes: Vec<Box> = Vec::with_capacity(plan.nodes.len());
    let mut bottoms = vec![20; columns.iter().max().map_or(1, |column| column + 1)];
    for (node, &column) in plan.nodes.iter().zip(&columns) {
        let height = HEAD + LINE * lines(node).len() + 6;
        boxes.push(Box { x: 20 + column * (WIDTH + GAP), y: bottoms[column], height });
        bottoms[column] += height + 24;
    }
    let width = 20 + bottoms.len() * (WIDTH + GAP);
    let height = bottoms.iter().max().copied().unwrap_or(20) + 40;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (node, to) in plan.nodes.iter().zip(&boxes) {
        let mut slot = 0;
        for fed in &node.inputs {
            if let Fed::Link { node: source, .. } = fed {
                let from = &boxes[*source];
                let (x1, y1) = (from.x + WIDTH, from.y + HEAD / 2);
                let (x2, y2) = (to.x, to.y + HEAD / 2 + 4 * slot);
                let bend = (x1 + x2) / 2;
                let _ = writeln!(
                    out,
                    "<path d=\"M{x1} {y1} C{bend} {y1} {bend} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#8a8f98\" stroke-width=\"1.5\"/>"
                );
                slot += 1;
            }
        }
    }
    for (node, place) in plan.nodes.iter().zip(&boxes) {
        let Box { x, y, height } = place;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"{}\" stroke=\"#3b4252\"/>",
            color(node)
        );
        let title = if node.title.is_empty() || node.title == node.class.name { "" } else { &node.title };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{} {}</text>\n<text x=\"{}\" y=\"{}\" fill=\"#4c566a\">{}</text>",
            x + 8,
            y + 15,
            escape(&node.id, 8),
            escape(node.class.name, 30),
            x + 8,
            y + 29,
            escape(title, 34)
        );
        for (i, line) in lines(node).iter().enumerate() {
            let _ =
                writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", x + 8, y + HEAD + 9 + i * LINE, escape(line, 36));
        }
    }
    let legend = [
        ("#d8e8d0", "every frame"),
        ("#f6d9c4", "every frame, on the host"),
        ("#dbe4f3", "once"),
        ("#eeeeee", "loaded"),
        ("#e6dcf2", "sound, text"),
    ];
    for (i, (color, words)) in legend.iter().enumerate() {
        let (x, y) = (20 + i * 180, height - 26);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"{color}\" stroke=\"#3b4252\"/><text x=\"{}\" y=\"{}\">{words}</text>",
            x + 20,
            y + 11
        );
    }
    out.push_str("</svg>\n");
    out
}

fn color(node: &Node) -> &'static str {
    match node.place {
        Place::Frame { .. } => "#d8e8d0",
        Place::Host { .. } => "#f6d9c4",
        Place::Once { .. } => "#dbe4f3",
        Place::Held => "#eeeeee",
        Place::Sound | Place::Text => "#e6dcf2",
    }
}

/// The widgets; `•` before those that are live.
fn lines(node: &Node) -> Vec<String> {
    let shown = node.class.inputs.iter().zip(&node.inputs).filter_map(|(input, fed)| match (input.kind, fed) {
        (Kind::Link(_), _) => None,
        (_, Fed::Set(setting)) if !input.ignored => {
            let value = match setting.text() {
                Some(text) => text.to_owned(),
                None => setting.json().to_string(),
            };
            Some(format!("{} {}: {value}", if input.live { "•" } else { " " }, input.name))
        }
        _ => None,
    });
    shown.collect()
}

fn escape(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == most {
            out.push('…');
            break;
        }
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_picture_has_every_node_and_nothing_that_could_run() {
        let workflow = json!({
            "1": {"class_type": "LoadTensor", "_meta": {"title": "<script>alert(1)</script>"}, "inputs": {}},
            "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "3": {"class_type": "SaveTensor", "inputs": {"images": ["2", 0]}}
        });
        let svg = svg(&super::super::plan(&workflow).unwrap());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("<script") && svg.contains("&lt;script"));
        assert_eq!((svg.matches("<path").count(), svg.matches("rx=\"6\"").count()), (2, 3));
    }
}
