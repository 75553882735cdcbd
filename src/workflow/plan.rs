//! A converted document to a checked plan: typed nodes in the order in which they run, each with the place where it runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value as Json;

use super::class::{Class, Kind, Medium, Runs};
use super::document::{Document, Given, Id, Raw, kind};
use super::need::Need;
use super::place;
use super::refusal::{Refusal, Refused, Why};
use super::registry;
use super::value::Setting;

/// What feeds an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Fed {
    /// Nothing: an optional link that is absent.
    Nothing,
    /// A widget.
    Set(Setting),
    /// The output `output` of the node at `node` of the plan.
    Link {
        /// Place in [`Plan::nodes`].
        node: usize,
        /// Counted from 0.
        output: usize,
    },
}

/// Where a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: its values are handles.
    Held,
    /// When what it depends on changes, which is no frame: nodes of one `group` are one graph, which runs after the graphs of
    /// lower levels.
    Once {
        /// Costly graphs before it.
        level: usize,
        /// Which graph.
        group: usize,
    },
    /// At every frame: nodes of one level are one graph.
    Frame {
        /// Host stages before it.
        level: usize,
    },
    /// At every frame, on the host or as a stage of its own, after the graph of the same level.
    Host {
        /// Host stages before it.
        level: usize,
    },
    /// At every block of sound, on the host.
    Sound,
    /// When the text that it sends is another one.
    Text,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id in the document.
    pub id: String,
    /// Its title, or empty.
    pub title: String,
    /// Its class.
    pub class: &'static Class,
    /// What feeds each of the class's inputs, in their order.
    pub inputs: Vec<Fed>,
    /// Where it runs.
    pub place: Place,
    /// Whether it depends on what comes in with the stream.
    pub live: bool,
    /// Whether it is a stage of its own, although its class becomes operators.
    pub apart: bool,
}

impl Node {
    /// How it becomes part of what runs.
    pub fn runs(&self) -> Runs {
        if self.apart { Runs::Stage } else { self.class.runs }
    }

    /// The widget `input`, if one is set there.
    pub fn setting(&self, input: usize) -> Option<&Setting> {
        match self.inputs.get(input) {
            Some(Fed::Set(setting)) => Some(setting),
            _ => None,
        }
    }

    pub(super) fn refusal(&self, why: Why, input: &str, reason: String, help: String) -> Refusal {
        Refusal {
            why,
            node: self.id.clone(),
            title: self.title.clone(),
            class: self.class.name.to_owned(),
            input: input.to_owned(),
            reason,
            help,
        }
    }
}

/// Which media go in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// The workflow takes pictures.
    pub video_in: bool,
    /// The workflow gives pictures. Where it does not, pictures pass through.
    pub video_out: bool,
    /// The workflow takes sound.
    pub audio_in: bool,
    /// The workflow gives sound. Where it does not, sound passes through.
    pub audio_out: bool,
    /// The workflow gives text.
    pub text_out: bool,
}

/// A checked workflow. Only what leads to an output is in it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every node behind those that feed it.
    pub nodes: Vec<Node>,
    /// Which media go in and out.
    pub media: Media,
    /// What was passed over, in words.
    pub notes: Vec<String>,
    /// The document as it was read, before it was converted.
    pub document: Document,
}

impl Plan {
    /// Plans `document`, which [`super::convert()`] has converted. Reads no file.
    ///
    /// # Errors
    /// Every reason at once.
    pub fn new(document: Document) -> Result<Self, Refused> {
        let mut notes = document.notes.clone();
        let mut refused = Vec::new();
        let reached = reach(&document, &mut notes);
        let order = match order(&document, &reached) {
            Ok(order) => order,
            Err(Refused(circle)) => {
                refused.extend(circle);
                // The other reasons need no order.
                reached.iter().collect()
            }
        };
        let places: HashMap<&Id, usize> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let mut nodes = Vec::with_capacity(order.len());
        for &id in &order {
            let Some(raw) = document.nodes.get(id) else { continue };
            let Some(class) = registry::find(&raw.class) else {
                refused.push(unknown(id, raw));
                continue;
            };
            let reader = Reader { id, raw, class, document: &document, places: &places };
            match class.runs {
                Runs::Refused(reason) => refused.push(reader.refusal(Why::Class, "", reason, "")),
                _ => nodes.push(reader.node(&mut refused, &mut notes)),
            }
        }
        if !refused.is_empty() {
            return Err(Refused(refused));
        }
        place::assign(&mut nodes);
        let takes = |medium| nodes.iter().any(|node| node.class.source == Some(medium));
        let gives = |medium| nodes.iter().any(|node| node.class.sink == Some(medium));
        let media = Media {
            video_in: takes(Medium::Video),
            video_out: gives(Medium::Video),
            audio_in: takes(Medium::Audio),
            audio_out: gives(Medium::Audio),
            text_out: gives(Medium::Text),
        };
        Ok(Self { nodes, media, notes, document })
    }

    /// Every model that is needed, with the node that needs it; of some it depends on what lies below `models`.
    pub fn needs(&self, models: &Path) -> Vec<(&Node, Need)> {
        fn own(node: &Node) -> Vec<Need> {
            let setting = |name: &str| node.setting(node.class.input(name)?).cloned();
            (node.class.needs)(&setting)
        }
        let of = |node: &Node| {
            let setting = |name: &str| node.setting(node.class.input(name)?).cloned();
            let linked = |name: &str| match node.inputs.get(node.class.input(name)?)? {
                Fed::Link { node, .. } => self.nodes.get(*node).map(own),
                _ => None,
            };
            let mut all = own(node);
            all.extend((node.class.needs_with)(&setting, &linked, models));
            all
        };
        self.nodes.iter().flat_map(|node| of(node).into_iter().map(move |need| (node, need))).collect()
    }

    /// The plan with what lies below `models`: nodes that are a stage of their own because of it have another place. `None`
    /// where there is none.
    pub fn with_files(&self, models: &Path) -> Option<Self> {
        let apart = |node: &Node| {
            let setting = |name: &str| node.setting(node.class.input(name)?).cloned();
            (node.class.apart)(&setting, models)
        };
        let mut nodes = self.nodes.clone();
        nodes.iter_mut().for_each(|node| node.apart = apart(node));
        if nodes.iter().all(|node| !node.apart) {
            return None;
        }
        place::assign(&mut nodes);
        Some(Self { nodes, ..self.clone() })
    }

    /// A refusal for every model that is not below `models`.
    pub fn missing(&self, models: &Path) -> Vec<Refusal> {
        let absent = self.needs(models).into_iter().filter(|(_, need)| need.find(models).is_none());
        absent
            .map(|(node, need)| {
                let files: Vec<String> =
                    need.files.iter().map(|file| models.join(file).display().to_string()).collect();
                let looked = match (files.is_empty(), need.repository.is_empty()) {
                    (true, _) => format!("the repository {} below {}", need.repository, models.display()),
                    (false, true) => files.join(", "),
                    (false, false) => format!("{}, or the repository {}", files.join(", "), need.repository),
                };
                let reason = format!("{} {} is missing: looked for {looked}", need.what, need.name);
                node.refusal(Why::Model, "", reason, need.from)
            })
            .collect()
    }
}

/// Everything that leads to an output. Of several outputs of pictures the first is shown.
fn reach(document: &Document, notes: &mut Vec<String>) -> BTreeSet<Id> {
    // An output that is not known here is refused with its name, instead of being passed over.
    let unknown = |raw: &Raw| super::convert::OUTPUTS.contains(&raw.class.as_str()).then_some(Medium::Text);
    let sink = |raw: &Raw| registry::find(&raw.class).map_or_else(|| unknown(raw), |class| class.sink);
    let mut shown: Option<&Id> = None;
    let mut open: Vec<&Id> = Vec::new();
    for (id, raw) in &document.nodes {
        match (sink(raw), shown) {
            (Some(Medium::Video), Some(first)) => {
                notes.push(format!(
                    "the picture of node {} is shown; node {} ({}) is passed over",
                    first.0, id.0, raw.class
                ));
            }
            (Some(Medium::Video), None) => {
                shown = Some(id);
                open.push(id);
            }
            (Some(_), _) => open.push(id),
            (None, _) => {}
        }
    }
    let mut reached = BTreeSet::new();
    while let Some(id) = open.pop() {
        let Some(raw) = document.nodes.get(id) else { continue };
        if !reached.insert(id.clone()) {
            continue;
        }
        // Only inputs that the class has are followed: ComfyUI looks at no other.
        let class = registry::find(&raw.class);
        open.extend(raw.inputs.iter().filter_map(|(name, given)| match given {
            Given::Link { node, .. } if class.is_none_or(|class| class.input(name).is_some()) => Some(node),
            _ => None,
        }));
    }
    reached
}

/// The nodes, each behind those that feed it; or the nodes of a circle.
fn order<'a>(document: &'a Document, reached: &'a BTreeSet<Id>) -> Result<Vec<&'a Id>, Refused> {
    let sources = |id: &'a Id| -> Vec<&'a Id> {
        let Some(raw) = document.nodes.get(id) else { return Vec::new() };
        let class = registry::find(&raw.class);
        let followed = raw.inputs.iter().filter(|(name, _)| class.is_none_or(|class| class.input(name).is_some()));
        followed
            .filter_map(|(_, given)| match given {
                Given::Link { node, .. } => reached.get(node),
                Given::Value(_) => None,
            })
            .collect()
    };
    // A walk without recursion: a node is left behind once everything before it is.
    let mut state: HashMap<&Id, bool> = HashMap::new();
    let mut order = Vec::with_capacity(reached.len());
    for root in reached {
        let mut path: Vec<(&Id, Vec<&Id>)> = Vec::new();
        if !state.contains_key(root) {
            state.insert(root, false);
            path.push((root, sources(root)));
        }
        while let Some((id, rest)) = path.last_mut() {
            let id = *id;
            match rest.pop() {
                None => {
                    state.insert(id, true);
                    order.push(id);
                    path.pop();
                }
                Some(next) => match state.get(next) {
                    Some(true) => {}
                    Some(false) => {
                        let begin = path.iter().position(|(id, _)| *id == next).unwrap_or(0);
                        let circle: Vec<String> = path[begin..].iter().map(|(id, _)| id.0.clone()).collect();
                        let raw = document.nodes.get(next);
                        return Err(Refusal {
                            why: Why::Cycle,
                            node: next.0.clone(),
                            title: raw.map(|raw| raw.title.clone()).unwrap_or_default(),
                            class: raw.map(|raw| raw.class.clone()).unwrap_or_default(),
                            input: String::new(),
                            reason: format!("nodes {} feed each other in a circle", circle.join(" ← ")),
                            help: "take one of these links out".to_owned(),
                        }
                        .into());
                    }
                    None => {
                        state.insert(next, false);
                        path.push((next, sources(next)));
                    }
                },
            }
        }
    }
    Ok(order)
}

fn unknown(id: &Id, raw: &Raw) -> Refusal {
    let near = registry::near(&raw.class);
    let help = match near.is_empty() {
        true => "`weir workflow classes` lists what runs".to_owned(),
        false => format!("there is {}", near.join(" and ")),
    };
    Refusal {
        why: Why::Class,
        node: id.0.clone(),
        title: raw.title.clone(),
        class: raw.class.clone(),
        input: String::new(),
        reason: format!("the class {} is not known", raw.class),
        help,
    }
}

/// What may stand beside a class's inputs without a word: leftovers of the editor and of classes that were replaced.
const LEFTOVERS: [&str; 5] =
    ["upload", "filename_prefix", "control_after_generate", "choose file to upload", "speak_and_recognation"];

struct Reader<'a> {
    id: &'a Id,
    raw: &'a Raw,
    class: &'static Class,
    document: &'a Document,
    places: &'a HashMap<&'a Id, usize>,
}

impl Reader<'_> {
    fn refusal(&self, why: Why, input: &str, reason: impl Into<String>, help: impl Into<String>) -> Refusal {
        Refusal {
            why,
            node: self.id.0.clone(),
            title: self.raw.title.clone(),
            class: self.raw.class.clone(),
            input: input.to_owned(),
            reason: reason.into(),
            help: help.into(),
        }
    }

    fn node(&self, refused: &mut Vec<Refusal>, notes: &mut Vec<String>) -> Node {
        let mut inputs = Vec::with_capacity(self.class.inputs.len());
        for input in self.class.inputs {
            let fed = match (self.raw.inputs.get(input.name), input.default()) {
                (Some(Given::Link { node, output }), _) => self.link(input.name, node, *output, refused),
                (Some(Given::Value(value)), _) if input.is_widget() => match setting(&input.kind, value) {
                    Ok(setting) => Fed::Set(setting),
                    Err((reason, help)) => {
                        refused.push(self.refusal(Why::Value, input.name, reason, help));
                        Fed::Nothing
                    }
                },
                (Some(Given::Value(value)), _) => {
                    let reason = format!("{} stands where a link of type {} belongs", kind(value), input.link_type());
                    refused.push(self.refusal(Why::Link, input.name, reason, sources_of(self.class, input.name)));
                    Fed::Nothing
                }
                (None, Some(default)) => Fed::Set(default),
                (None, None) if input.optional => Fed::Nothing,
                (None, None) => {
                    let what = if input.is_widget() { "it is not set" } else { "it is not linked" };
                    refused.push(self.refusal(Why::Link, input.name, what, sources_of(self.class, input.name)));
                    Fed::Nothing
                }
            };
            inputs.push(fed);
        }
        for name in self.raw.inputs.keys() {
            if self.class.input(name).is_none() && !LEFTOVERS.contains(&name.as_str()) {
                notes.push(format!(
                    "node {} ({}): input {name} is not known and has no effect",
                    self.id.0, self.class.name
                ));
            }
        }
        Node {
            id: self.id.0.clone(),
            title: self.raw.title.clone(),
            class: self.class,
            inputs,
            place: Place::Held,
            live: false,
            apart: false,
        }
    }

    fn link(&self, input: &str, from: &Id, output: usize, refused: &mut Vec<Refusal>) -> Fed {
        let wanted = self.class.input(input).and_then(|i| self.class.inputs.get(i)).map(super::class::Input::link_type);
        let (Some(source), Some(wanted)) = (self.document.nodes.get(from), wanted) else {
            let reason = format!("it is linked to node {}, which is not there", from.0);
            refused.push(self.refusal(Why::Link, input, reason, sources_of(self.class, input)));
            return Fed::Nothing;
        };
        // A source that is not known is refused by itself.
        let Some(class) = registry::find(&source.class) else { return Fed::Nothing };
        // So is one that does not run.
        if matches!(class.runs, Runs::Refused(_)) {
            return Fed::Nothing;
        }
        let Some(given) = class.outputs.get(output) else {
            let reason = format!(
                "it is linked to output {output} of node {} ({}), which has {} outputs",
                from.0,
                class.name,
                class.outputs.len()
            );
            refused.push(self.refusal(Why::Link, input, reason, sources_of(self.class, input)));
            return Fed::Nothing;
        };
        if !given.ty.fits(wanted) {
            let reason =
                format!("it takes {wanted}, and output {output} of node {} ({}) is {}", from.0, class.name, given.ty);
            refused.push(self.refusal(Why::Link, input, reason, sources_of(self.class, input)));
            return Fed::Nothing;
        }
        match self.places.get(from) {
            Some(&node) => Fed::Link { node, output },
            None => Fed::Nothing,
        }
    }
}

/// What would work in an input, in words.
fn sources_of(class: &Class, input: &str) -> String {
    let Some(input) = class.input(input).and_then(|i| class.inputs.get(i)) else { return String::new() };
    let ty = input.link_type();
    let mut makers: Vec<&str> = registry::all()
        .filter(|class| !matches!(class.runs, Runs::Refused(_)) && class.outputs.iter().any(|out| out.ty == ty))
        .map(|class| class.name)
        .collect();
    makers.truncate(4);
    match (input.is_widget(), makers.is_empty()) {
        (true, _) => "type a value in".to_owned(),
        (false, true) => format!("nothing here makes {ty}"),
        (false, false) => format!("link it to a node that gives {ty}, such as {}", makers.join(", ")),
    }
}

/// `value` as what `kind` takes, as leniently as ComfyUI; or what is wrong, and what would work.
pub(super) fn setting(wanted: &Kind, value: &Json) -> Result<Setting, (String, String)> {
    let within = |low: String, high: String| format!("from {low} to {high} is allowed");
    match *wanted {
        Kind::Link(ty) => Err((format!("{} stands where a link of type {ty} belongs", kind(value)), String::new())),
        Kind::Int { min, max, .. } => {
            let help = within(min.to_string(), max.to_string());
            let n = whole(value).ok_or_else(|| (format!("{value} is no whole number"), help.clone()))?;
            match n < min || n > max {
                true => Err((format!("{n} is out of range"), help)),
                false => Ok(Setting::Int(n)),
            }
        }
        Kind::Float { min, max, .. } => {
            let help = within(min.to_string(), max.to_string());
            let n = match value {
                Json::Number(n) => n.as_f64(),
                Json::String(text) => text.trim().parse().ok(),
                Json::Bool(b) => Some(f64::from(u8::from(*b))),
                _ => None,
            };
            match n.filter(|n| n.is_finite()) {
                None => Err((format!("{value} is no number"), help)),
                Some(n) if n < min || n > max => Err((format!("{n} is out of range"), help)),
                Some(n) => Ok(Setting::Float(n)),
            }
        }
        Kind::Bool { .. } => match value {
            Json::Bool(b) => Ok(Setting::Bool(*b)),
            Json::Number(n) if n.as_f64() == Some(0.0) => Ok(Setting::Bool(false)),
            Json::Number(n) if n.as_f64() == Some(1.0) => Ok(Setting::Bool(true)),
            Json::String(text) if text.eq_ignore_ascii_case("true") => Ok(Setting::Bool(true)),
            Json::String(text) if text.eq_ignore_ascii_case("false") => Ok(Setting::Bool(false)),
            _ => Err((format!("{value} is neither true nor false"), String::new())),
        },
        Kind::Text { .. } => Ok(Setting::Text(plain(value))),
        Kind::File => match plain(value) {
            name if name.is_empty() => Err(("no file is named".to_owned(), String::new())),
            name => Ok(Setting::Text(name)),
        },
        Kind::Choice { of, .. } => {
            let text = plain(value);
            match of.contains(&text.as_str()) {
                true => Ok(Setting::Text(text)),
                false => Err((format!("{text:?} is not among the choices"), format!("there are {}", of.join(", ")))),
            }
        }
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whole floats up to this are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn whole(value: &Json) -> Option<i128> {
    match value {
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => Some(n.into()),
            (_, Some(n), _) => Some(n.into()),
            (_, _, Some(n)) if n.fract() == 0.0 && n.abs() <= EXACT => Some(n as i128),
            _ => None,
        },
        Json::String(text) => text.trim().parse().ok(),
        Json::Bool(b) => Some(i128::from(u8::from(*b))),
        _ => None,
    }
}

/// Nodes by id, for people who ask by it.
impl Plan {
    /// The node called `id`, if it is part of what runs.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// How many nodes of each class there are.
    pub fn classes(&self) -> BTreeMap<&'static str, usize> {
        let mut count = BTreeMap::new();
        for node in &self.nodes {
            *count.entry(node.class.name).or_insert(0) += 1;
        }
        count
    }
}
