//! What comes out of lowering: graphs and host stages in the order in which they run, and what feeds them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::LowerError;
use super::sound::{Sound, Text};
use super::value::{Data, Sym, Value};
use crate::graph::{DType, GraphBuilder, GraphError, Model, Tensor};
use crate::models::weights::{Family, SharedPool};
use crate::workflow::class::Runs;
use crate::workflow::plan::{Fed, Place, Plan};
use crate::workflow::value::Setting;

/// A widget: the node's place in the plan, and the input's place in its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WidgetRef {
    /// Place in [`Plan::nodes`].
    pub node: usize,
    /// Place in the class's inputs.
    pub input: usize,
}

/// Why settings cannot become a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum EncodeError {
    /// They need another graph.
    Graph,
    /// They are wrong.
    Wrong(String),
}

/// Settings to the elements of a tensor, of the port's type and number. Called for every change, so it is pure and quick; or
/// slow and only seldom called, such as for a prompt.
pub type Encode = Arc<dyn Fn(&[Setting]) -> Result<Data, EncodeError> + Send + Sync>;

/// A tensor that follows widgets.
#[derive(Clone)]
pub struct LiveTensor {
    /// The widgets, in the order in which `encode` takes their settings.
    pub widgets: Vec<WidgetRef>,
    /// Settings to elements.
    pub encode: Encode,
}

impl LiveTensor {
    /// The elements for the settings in `plan`.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn encode(&self, plan: &Plan) -> Result<Data, EncodeError> {
        (self.encode)(&settings(plan, &self.widgets)?)
    }
}

/// What stands in `widgets`. Another link in place of a widget is another graph.
fn settings(plan: &Plan, widgets: &[WidgetRef]) -> Result<Vec<Setting>, EncodeError> {
    let settings = widgets.iter().map(|at| plan.nodes.get(at.node)?.setting(at.input).cloned());
    settings.collect::<Option<_>>().ok_or(EncodeError::Graph)
}

/// Settings to parameters of a pipeline.
pub type EncodeParams = Arc<dyn Fn(&[Setting]) -> Result<Map<String, Json>, EncodeError> + Send + Sync>;

/// Parameters of a pipeline that follow widgets.
#[derive(Clone)]
pub struct LiveParams {
    /// The widgets, in the order in which `encode` takes their settings.
    pub widgets: Vec<WidgetRef>,
    /// Settings to parameters.
    pub encode: EncodeParams,
}

impl LiveParams {
    /// The parameters for the settings in `plan`.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn encode(&self, plan: &Plan) -> Result<Map<String, Json>, EncodeError> {
        (self.encode)(&settings(plan, &self.widgets)?)
    }
}

/// The pipeline `streamdiffusion` as a stage. Its one port, which is not there where pictures begin with text alone, takes a
/// picture (1, H, W, 3), as bytes or as f32 from 0 to 1; its first output is such a picture as bytes, a second one the same as f32.
#[derive(Clone)]
pub struct Piped {
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// Where the weights lie, a folder or a file, and their line. `None` for the small made-up model `weir/tiny`.
    pub model: Option<(PathBuf, Family)>,
    /// Its parameters, but for the model's name.
    pub params: LiveParams,
    /// What the seed −1 stands for: 32 bits, drawn when this was lowered.
    pub drawn: u64,
}

/// What feeds a port.
#[derive(Clone)]
pub enum Feed {
    /// The picture that comes in: u8 (1, H, W, 3).
    Frame,
    /// Widgets.
    Live(LiveTensor),
    /// Elements that never change, such as a picture from a file.
    Fixed(Arc<Data>),
    /// What an earlier stage gave.
    Bridge {
        /// Place in [`Lowered::stages`].
        stage: usize,
        /// Place in its outputs.
        output: usize,
    },
    /// What this stage gave at the last frame; zeros at the first.
    State {
        /// Place in its outputs.
        output: usize,
    },
}

/// An input of a stage.
#[derive(Clone)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What feeds it.
    pub feed: Feed,
}

/// An output of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
}

impl Made {
    /// How many elements there are.
    pub fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }
}

/// A function on the host between two graphs.
pub trait HostStage: Send {
    /// Makes the outputs from the inputs, in the order in which both were declared. Outputs have their length already.
    ///
    /// # Errors
    /// One frame fails; the next may succeed.
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String>;

    /// Forgets what frames left behind.
    fn reset(&mut self) {}

    /// The graphs that this stage runs itself, such as a detector that is asked only when nothing is tracked. Asked once,
    /// when the workflow is loaded.
    fn graphs(&mut self) -> Vec<OwnGraph> {
        Vec::new()
    }

    /// Takes what [`Self::graphs`] gave, loaded, in the same order. Called once, before the first run.
    fn equip(&mut self, _graphs: Vec<Box<dyn RunGraph>>) {}
}

/// A graph that a host stage runs itself.
pub struct OwnGraph {
    /// What it is, for people and for the engine cache.
    pub name: &'static str,
    /// The graph. It computes in 32 bits whatever the precision of the workflow.
    pub model: Model,
    /// What it takes.
    pub inputs: Vec<Made>,
    /// What it gives.
    pub outputs: Vec<Made>,
}

/// A loaded graph of a host stage.
pub trait RunGraph: Send {
    /// Runs it: `inputs` and `outputs` in the order of [`OwnGraph`], of the types and lengths declared there.
    ///
    /// # Errors
    /// With the runtime's message; the next run may succeed.
    fn run(&mut self, inputs: &[&Data], outputs: &mut [Data]) -> Result<(), String>;
}

/// What a stage runs.
pub enum Body {
    /// A graph.
    Graph(Box<Model>),
    /// A function on the host.
    Host(Box<dyn HostStage>),
    /// A pipeline.
    StreamDiffusion(Box<Piped>),
    /// A graph that somebody else wrote, in this file.
    File(PathBuf),
}

/// One stage.
pub struct Stage {
    /// What it is, for people: the classes in it.
    pub name: String,
    /// Whether it runs at every frame; else only when what feeds it changes.
    pub live: bool,
    /// What it runs.
    pub body: Body,
    /// What it takes.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Made>,
    /// The nodes in it, as places in the plan.
    pub nodes: Vec<usize>,
}

/// A lowered workflow.
pub struct Lowered {
    /// Every stage behind those that feed it.
    pub stages: Vec<Stage>,
    /// The stage and the output that is shown, u8 (1, H, W, 3). `None` when the workflow gives no picture.
    pub shown: Option<(usize, usize)>,
    /// What becomes of the sound. `None` when the workflow gives none: it passes as it is then.
    pub sound: Option<Sound>,
    /// Texts that leave.
    pub texts: Vec<Text>,
    /// Widgets whose change needs another graph.
    pub shaping: HashSet<WidgetRef>,
    /// Files of weights, which lie in the scratch folder too, so that graphs must be written there. Held as long as the
    /// workflow is in use, the next one finds them.
    pub beside: Vec<Arc<SharedPool>>,
    /// What deserves to be said, in words.
    pub notes: Vec<String>,
}

impl Lowered {
    /// The stages that are pipelines.
    pub fn pipelines(&self) -> impl Iterator<Item = (usize, &Piped)> {
        self.stages.iter().enumerate().filter_map(|(s, stage)| match &stage.body {
            Body::StreamDiffusion(piped) => Some((s, &**piped)),
            _ => None,
        })
    }

    /// The ports that follow a widget.
    pub fn live(&self) -> impl Iterator<Item = (usize, usize, &LiveTensor)> {
        self.stages.iter().enumerate().flat_map(|(s, stage)| {
            stage.inputs.iter().enumerate().filter_map(move |(p, port)| match &port.feed {
                Feed::Live(live) => Some((s, p, live)),
                _ => None,
            })
        })
    }
}

/// Where a symbol lives.
enum At {
    Graph(Tensor),
    /// An output of a host stage.
    Host {
        output: usize,
        dtype: DType,
        shape: Vec<u64>,
        seen: Seen,
    },
}

/// Operators that a graph puts behind what it takes from another stage.
pub type After = Arc<dyn Fn(&mut GraphBuilder, &Tensor) -> Result<Tensor, GraphError> + Send + Sync>;

/// As what others see an output of a host stage.
enum Seen {
    /// As it is.
    Plain,
    /// Bytes, as a picture f32 from 0 to 1.
    Picture,
    /// As f32 of this shape, which these operators make in each graph that takes it.
    By(After, Vec<u64>),
}

struct Symbol {
    stage: usize,
    at: At,
}

enum Making {
    Graph(Option<Box<GraphBuilder>>),
    Host(Option<Box<dyn HostStage>>),
    StreamDiffusion(Box<Piped>),
    File(PathBuf),
}

struct Draft {
    making: Making,
    live: bool,
    inputs: Vec<Port>,
    outputs: Vec<Made>,
    nodes: Vec<usize>,
    /// The picture that comes in, once a node asked for it.
    frame: Option<Tensor>,
    /// Networks in it so far.
    networks: usize,
    /// Symbols of other stages that are inputs here already.
    brought: HashMap<Sym, Tensor>,
    /// Symbols that are outputs here already.
    given: HashMap<Sym, usize>,
}

/// The stages under construction.
pub struct Build {
    drafts: Vec<Draft>,
    /// The stage of each place that occurs.
    stages: BTreeMap<Place, usize>,
    /// The stage of each host node.
    hosts: HashMap<usize, usize>,
    symbols: Vec<Symbol>,
    /// Symbols that are the picture that comes in, f32 from 0 to 1.
    cameras: HashSet<Sym>,
    /// What each node gave.
    values: Vec<Option<Vec<Value>>>,
    pub shown: Option<(usize, usize)>,
    pub sound: Option<Sound>,
    pub texts: Vec<Text>,
    pub shaping: HashSet<WidgetRef>,
    pub beside: Vec<Arc<SharedPool>>,
    pub notes: Vec<String>,
}

impl Build {
    pub fn new(plan: &Plan) -> Self {
        let mut build = Self {
            drafts: Vec::new(),
            stages: BTreeMap::new(),
            hosts: HashMap::new(),
            symbols: Vec::new(),
            cameras: HashSet::new(),
            values: vec![None; plan.nodes.len()],
            shown: None,
            sound: None,
            texts: Vec::new(),
            shaping: HashSet::new(),
            beside: Vec::new(),
            notes: Vec::new(),
        };
        // What runs once comes first, by level; then graph and host stages of the frame take turns.
        let rank = |place: Place| match place {
            Place::Held => (0, 0, 0, 0),
            Place::Once { level, group } => (1, level, group, 0),
            Place::Frame { level } => (2, level, 0, 0),
            Place::Host { level } => (2, level, 1, 0),
            Place::Sound | Place::Text => (3, 0, 0, 0),
        };
        let mut order: Vec<usize> = (0..plan.nodes.len()).collect();
        order.sort_by_key(|&i| (rank(plan.nodes[i].place), i));
        for i in order {
            let node = &plan.nodes[i];
            let host = matches!(node.runs(), Runs::Host | Runs::Stage);
            match node.place {
                Place::Held | Place::Sound | Place::Text => {}
                _ if host => {
                    build.hosts.insert(i, build.drafts.len());
                    build.drafts.push(Draft::new(Making::Host(None), node.live));
                }
                place if !build.stages.contains_key(&place) => {
                    build.stages.insert(place, build.drafts.len());
                    let name = if node.live { "frame" } else { "once" };
                    build.drafts.push(Draft::new(Making::Graph(Some(Box::new(GraphBuilder::new(name)))), node.live));
                }
                _ => {}
            }
        }
        build
    }

    /// The stage of the node at `i`; the inner `None` for one that has none. `None` when something that feeds it was refused.
    #[allow(clippy::option_option)]
    pub fn enter(&mut self, plan: &Plan, i: usize) -> Option<Option<usize>> {
        let node = &plan.nodes[i];
        let whole = node.inputs.iter().all(|fed| match fed {
            Fed::Link { node, .. } => self.values[*node].is_some(),
            _ => true,
        });
        if !whole {
            return None;
        }
        let stage = self.hosts.get(&i).or_else(|| self.stages.get(&node.place)).copied();
        if let Some(stage) = stage {
            self.drafts[stage].nodes.push(i);
        }
        Some(stage)
    }

    pub fn leave(&mut self, i: usize, values: Vec<Value>) {
        self.values[i] = Some(values);
    }

    pub fn value(&self, node: usize, output: usize) -> Option<&Value> {
        self.values.get(node)?.as_ref()?.get(output)
    }

    pub fn graph(&mut self, stage: usize) -> Option<&mut GraphBuilder> {
        match self.drafts.get_mut(stage).map(|draft| &mut draft.making) {
            Some(Making::Graph(graph)) => graph.as_deref_mut(),
            _ => None,
        }
    }

    /// The number of one more network in `stage`.
    pub fn network(&mut self, stage: usize) -> Result<usize, LowerError> {
        let networks = &mut self.draft(stage)?.networks;
        *networks += 1;
        Ok(*networks - 1)
    }

    pub fn symbol(&mut self, stage: usize, tensor: Tensor) -> Sym {
        self.symbols.push(Symbol { stage, at: At::Graph(tensor) });
        Sym(self.symbols.len() - 1)
    }

    pub fn shape(&self, sym: Sym) -> (DType, Option<Vec<u64>>) {
        match &self.symbols[sym.0].at {
            At::Graph(tensor) => (tensor.dtype(), tensor.shape().fixed()),
            At::Host { seen: Seen::Picture, shape, .. } | At::Host { seen: Seen::By(_, shape), .. } => {
                (DType::F32, Some(shape.clone()))
            }
            At::Host { dtype, shape, .. } => (*dtype, Some(shape.clone())),
        }
    }

    /// `sym` is the picture that comes in, f32 from 0 to 1.
    pub fn is_camera(&mut self, sym: Sym) {
        self.cameras.insert(sym);
    }

    /// `sym` with operators behind it, in its own graph. `None` for what a host stage gives.
    pub fn changed(
        &mut self,
        sym: Sym,
        with: impl FnOnce(&mut GraphBuilder, &Tensor) -> Result<Tensor, GraphError>,
    ) -> Result<Option<Sym>, LowerError> {
        let Symbol { stage, at: At::Graph(tensor) } = &self.symbols[sym.0] else { return Ok(None) };
        let (stage, tensor) = (*stage, tensor.clone());
        let Some(graph) = self.graph(stage) else { return Ok(None) };
        let tensor = with(graph, &tensor)?;
        Ok(Some(self.symbol(stage, tensor)))
    }

    /// A new input of a graph stage.
    pub fn input(&mut self, stage: usize, dtype: DType, shape: Vec<u64>, feed: Feed) -> Result<Tensor, LowerError> {
        let draft = self.draft(stage)?;
        let name = match feed {
            Feed::Frame => "frame".to_owned(),
            _ => format!("in_{}", draft.inputs.len()),
        };
        let Making::Graph(Some(graph)) = &mut draft.making else {
            return Err(GraphError::Invalid("a host stage has no graph".to_owned()).into());
        };
        let tensor = graph.input(&name, dtype, shape.as_slice())?;
        draft.inputs.push(Port { name, dtype, shape, feed });
        Ok(tensor)
    }

    /// The picture that comes in, u8 (1, H, W, 3).
    pub fn frame(&mut self, stage: usize, [width, height]: [u32; 2]) -> Result<Tensor, LowerError> {
        // One input a stage, however many nodes ask.
        if let Some(tensor) = &self.draft(stage)?.frame {
            return Ok(tensor.clone());
        }
        let shape = vec![1, height.into(), width.into(), 3];
        let tensor = self.input(stage, DType::U8, shape, Feed::Frame)?;
        self.draft(stage)?.frame = Some(tensor.clone());
        Ok(tensor)
    }

    /// `sym` as a tensor of `stage`.
    pub fn bring(&mut self, sym: Sym, stage: usize) -> Result<Tensor, LowerError> {
        let symbol = &self.symbols[sym.0];
        if symbol.stage == stage
            && let At::Graph(tensor) = &symbol.at
        {
            return Ok(tensor.clone());
        }
        if let Some(tensor) = self.draft(stage)?.brought.get(&sym) {
            return Ok(tensor.clone());
        }
        let (own, _) = self.shape(sym);
        let after = match &self.symbols[sym.0].at {
            At::Host { seen: Seen::Picture, .. } => {
                Some(Arc::new(|g: &mut GraphBuilder, x: &Tensor| g.div_scalar(x, 255.0)) as After)
            }
            At::Host { seen: Seen::By(after, _), .. } => Some(after.clone()),
            _ => None,
        };
        let (feed, dtype, shape) = self.bridge(sym)?;
        let mut tensor = self.input(stage, dtype, shape, feed)?;
        if let Some(graph) = self.graph(stage) {
            if own != dtype {
                tensor = graph.cast(&tensor, own)?;
            }
            if let Some(after) = after {
                tensor = after(graph, &tensor)?;
            }
        }
        self.draft(stage)?.brought.insert(sym, tensor.clone());
        Ok(tensor)
    }

    /// `sym` as something that later stages can be fed. Between stages there are bytes, 32-bit floats and 64-bit integers;
    /// other types change on the way.
    fn bridge(&mut self, sym: Sym) -> Result<(Feed, DType, Vec<u64>), LowerError> {
        let Symbol { stage, at } = &self.symbols[sym.0];
        let stage = *stage;
        match at {
            At::Host { output, dtype, shape, .. } => {
                Ok((Feed::Bridge { stage, output: *output }, *dtype, shape.clone()))
            }
            At::Graph(tensor) => {
                let mut tensor = tensor.clone();
                let shape = fixed(&tensor)?;
                let dtype = carried(tensor.dtype());
                let known = self.drafts[stage].given.get(&sym).copied();
                let output = match known {
                    Some(output) => output,
                    None => {
                        if dtype != tensor.dtype()
                            && let Some(graph) = self.graph(stage)
                        {
                            tensor = graph.cast(&tensor, dtype)?;
                        }
                        let output = self.output(stage, &tensor, None)?;
                        self.drafts[stage].given.insert(sym, output);
                        output
                    }
                };
                Ok((Feed::Bridge { stage, output }, dtype, shape))
            }
        }
    }

    /// Makes `tensor` an output of `stage`.
    pub fn output(&mut self, stage: usize, tensor: &Tensor, name: Option<&str>) -> Result<usize, LowerError> {
        let draft = self.draft(stage)?;
        let place = draft.outputs.len();
        let name = name.map_or_else(|| format!("out_{place}"), str::to_owned);
        let Making::Graph(Some(graph)) = &mut draft.making else {
            return Err(GraphError::Invalid("a host stage has no graph".to_owned()).into());
        };
        graph.output(&name, tensor)?;
        draft.outputs.push(Made { name, dtype: tensor.dtype(), shape: fixed(tensor)? });
        Ok(place)
    }

    /// A state of `stage`: an input that is fed what `give` names at the frame before.
    pub fn state(&mut self, stage: usize, dtype: DType, shape: &[u64]) -> Result<(Tensor, usize), LowerError> {
        if carried(dtype) != dtype {
            return Err(GraphError::Invalid(format!("a state of {dtype}; cast it to {}", carried(dtype))).into());
        }
        // The output is put in by `keep`; until then it points at nothing.
        let tensor = self.input(stage, dtype, shape.to_vec(), Feed::State { output: usize::MAX })?;
        Ok((tensor, self.drafts[stage].inputs.len() - 1))
    }

    pub fn keep(&mut self, stage: usize, port: usize, tensor: &Tensor) -> Result<(), LowerError> {
        let output = self.output(stage, tensor, None)?;
        self.drafts[stage].inputs[port].feed = Feed::State { output };
        Ok(())
    }

    /// Fills a host stage.
    pub fn host(
        &mut self,
        stage: usize,
        inputs: &[Sym],
        live: Vec<(DType, Vec<u64>, LiveTensor)>,
        outputs: &[(DType, Vec<u64>)],
        body: Box<dyn HostStage>,
    ) -> Result<Vec<Sym>, LowerError> {
        for &sym in inputs {
            let (feed, dtype, shape) = self.floats(sym)?;
            let inputs = &mut self.draft(stage)?.inputs;
            inputs.push(Port { name: format!("in_{}", inputs.len()), dtype, shape, feed });
        }
        for (dtype, shape, live) in live {
            let inputs = &mut self.draft(stage)?.inputs;
            inputs.push(Port { name: format!("in_{}", inputs.len()), dtype, shape, feed: Feed::Live(live) });
        }
        let mut syms = Vec::with_capacity(outputs.len());
        for (dtype, shape) in outputs {
            let made = &mut self.draft(stage)?.outputs;
            let output = made.len();
            made.push(Made { name: format!("out_{output}"), dtype: *dtype, shape: shape.clone() });
            let at = At::Host { output, dtype: *dtype, shape: shape.clone(), seen: Seen::Plain };
            self.symbols.push(Symbol { stage, at });
            syms.push(Sym(self.symbols.len() - 1));
        }
        match &mut self.draft(stage)?.making {
            Making::Host(slot @ None) => *slot = Some(body),
            _ => return Err(GraphError::Invalid("it is no host stage, or filled already".to_owned()).into()),
        }
        Ok(syms)
    }

    /// As [`Self::bridge`], where pictures are always f32.
    fn floats(&mut self, sym: Sym) -> Result<(Feed, DType, Vec<u64>), LowerError> {
        let Symbol { stage, at: At::Host { seen, shape, .. } } = &self.symbols[sym.0] else {
            return self.bridge(sym);
        };
        let (stage, shape) = (*stage, shape.clone());
        match seen {
            Seen::Plain => return self.bridge(sym),
            Seen::By(..) => {
                let reason = "it is made in the graph behind; put a node that becomes operators between them";
                return Err(GraphError::Invalid(reason.to_owned()).into());
            }
            Seen::Picture => {}
        }
        let made = &mut self.draft(stage)?.outputs;
        if made.len() == 1 {
            made.push(Made { name: "out_1".to_owned(), dtype: DType::F32, shape: shape.clone() });
        }
        Ok((Feed::Bridge { stage, output: 1 }, DType::F32, shape))
    }

    /// Fills a host stage with a pipeline, which takes `picture`, f32 (1, H, W, 3) of the pipeline's size, or none.
    pub fn pipeline(&mut self, stage: usize, picture: Option<Sym>, piped: Piped) -> Result<Sym, LowerError> {
        let shape = vec![1, piped.size[1].into(), piped.size[0].into(), 3];
        let fed = match picture {
            None => None,
            Some(picture) if self.cameras.contains(&picture) => Some((Feed::Frame, DType::U8)),
            Some(picture) => {
                // Bytes where a graph can make them; what comes from the host may be floats.
                let (feed, dtype, _) = match self.changed(picture, to_bytes)? {
                    Some(bytes) => self.bridge(bytes)?,
                    None if matches!(self.symbols[picture.0].at, At::Host { seen: Seen::Picture, .. }) => {
                        self.bridge(picture)?
                    }
                    None => self.floats(picture)?,
                };
                Some((feed, dtype))
            }
        };
        let draft = self.draft(stage)?;
        if !matches!(draft.making, Making::Host(None)) {
            return Err(GraphError::Invalid("it is no host stage, or filled already".to_owned()).into());
        }
        draft.making = Making::StreamDiffusion(Box::new(piped));
        let port = |(feed, dtype)| Port { name: "picture".to_owned(), dtype, shape: shape.clone(), feed };
        draft.inputs.extend(fed.map(port));
        draft.outputs.push(Made { name: "picture_out".to_owned(), dtype: DType::U8, shape: shape.clone() });
        let at = At::Host { output: 0, dtype: DType::U8, shape, seen: Seen::Picture };
        self.symbols.push(Symbol { stage, at });
        Ok(Sym(self.symbols.len() - 1))
    }

    /// Fills a stage of its own with the graph of `file`, which takes `from`, f32 of its graph, as `ports[0]` and gives f32 of
    /// `shape` as `ports[1]`. Whoever takes it puts `after` behind it, which makes f32 of `seen`.
    pub fn file(
        &mut self,
        stage: usize,
        from: Sym,
        file: PathBuf,
        ports: [String; 2],
        shape: Vec<u64>,
        (after, seen): (After, Vec<u64>),
    ) -> Result<Sym, LowerError> {
        let (feed, dtype, taken) = self.bridge(from)?;
        let [input, output] = ports;
        let draft = self.draft(stage)?;
        if !matches!(draft.making, Making::Host(None)) || dtype != DType::F32 {
            return Err(GraphError::Invalid("it is no stage for a file, or filled already".to_owned()).into());
        }
        draft.making = Making::File(file);
        draft.inputs.push(Port { name: input, dtype, shape: taken, feed });
        draft.outputs.push(Made { name: output, dtype: DType::F32, shape: shape.clone() });
        let at = At::Host { output: 0, dtype: DType::F32, shape, seen: Seen::By(after, seen) };
        self.symbols.push(Symbol { stage, at });
        Ok(Sym(self.symbols.len() - 1))
    }

    /// Shows `sym` without a graph, if it is a picture's bytes of `size` (width, height) already.
    pub fn show_bytes(&mut self, sym: Sym, size: [u32; 2]) -> bool {
        let Symbol { stage, at: At::Host { output, shape, seen: Seen::Picture, .. } } = &self.symbols[sym.0] else {
            return false;
        };
        let fits = *shape == [1, size[1].into(), size[0].into(), 3];
        if fits && self.shown.is_none() {
            self.shown = Some((*stage, *output));
        }
        fits
    }

    fn draft(&mut self, stage: usize) -> Result<&mut Draft, LowerError> {
        let draft = self.drafts.get_mut(stage);
        draft.ok_or_else(|| GraphError::Invalid("there is no such stage".to_owned()).into())
    }

    /// Closes every graph. Stages that nothing uses are left out.
    pub fn finish(self, plan: &Plan) -> Result<Lowered, GraphError> {
        let used = used(&self.drafts, self.shown);
        let mut place = vec![usize::MAX; self.drafts.len()];
        let mut stages = Vec::new();
        for (i, draft) in self.drafts.into_iter().enumerate() {
            if !used[i] {
                continue;
            }
            let body = match draft.making {
                Making::Graph(Some(graph)) => Body::Graph(Box::new(graph.finish()?)),
                Making::Host(Some(host)) => Body::Host(host),
                Making::StreamDiffusion(piped) => Body::StreamDiffusion(piped),
                Making::File(file) => Body::File(file),
                Making::Graph(None) | Making::Host(None) => {
                    return Err(GraphError::Invalid("a stage has nothing to run".to_owned()));
                }
            };
            place[i] = stages.len();
            let inputs = draft.inputs.into_iter().map(|port| {
                let feed = match port.feed {
                    Feed::Bridge { stage, output } => Feed::Bridge { stage: place[stage], output },
                    other => other,
                };
                Port { feed, ..port }
            });
            stages.push(Stage {
                name: name(plan, &draft.nodes),
                live: draft.live,
                body,
                inputs: inputs.collect(),
                outputs: draft.outputs,
                nodes: draft.nodes,
            });
        }
        let shown = self.shown.map(|(stage, output)| (place[stage], output));
        let Self { sound, texts, shaping, beside, notes, .. } = self;
        Ok(Lowered { stages, shown, sound, texts, shaping, beside, notes })
    }
}

impl Draft {
    fn new(making: Making, live: bool) -> Self {
        Self {
            making,
            live,
            inputs: Vec::new(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            frame: None,
            networks: 0,
            brought: HashMap::new(),
            given: HashMap::new(),
        }
    }
}

/// Which stages have a part in what leaves.
fn used(drafts: &[Draft], shown: Option<(usize, usize)>) -> Vec<bool> {
    let mut used = vec![false; drafts.len()];
    for i in (0..drafts.len()).rev() {
        // A host stage without outputs is one that hands something out, such as sound.
        let hands_out = matches!(drafts[i].making, Making::Host(_)) && drafts[i].outputs.is_empty();
        used[i] |= hands_out || shown.is_some_and(|(stage, _)| stage == i);
        if used[i] {
            for port in &drafts[i].inputs {
                if let Feed::Bridge { stage, .. } = port.feed {
                    used[stage] = true;
                }
            }
        }
    }
    used
}

/// The classes of a stage, each once, in order.
fn name(plan: &Plan, nodes: &[usize]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for &node in nodes {
        let name = plan.nodes[node].class.name;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The type that stands for `dtype` between stages.
fn carried(dtype: DType) -> DType {
    match dtype {
        DType::F32 | DType::F16 => DType::F32,
        DType::U8 | DType::Bool => DType::U8,
        DType::I32 | DType::I64 => DType::I64,
    }
}

/// `⌊clamp(255 · x, 0, 255)⌋`
pub fn to_bytes(g: &mut GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let x = g.mul_scalar(x, 255.0)?;
    let x = g.clip(&x, 0.0, 255.0)?;
    // A cast cuts off.
    g.cast(&x, DType::U8)
}

fn fixed(tensor: &Tensor) -> Result<Vec<u64>, GraphError> {
    tensor.shape().fixed().ok_or_else(|| GraphError::Invalid(format!("the shape {} is not known", tensor.shape())))
}
