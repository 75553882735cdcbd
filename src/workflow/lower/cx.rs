//! What a node's function is given.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::sound::{Known, Sound, Text};
use super::stage::{After, Build, EncodeError, Feed, HostStage, LiveParams, LiveTensor, Piped, WidgetRef};
use super::value::{Data, Sym, Value};
use super::{Env, LowerError};
use crate::graph::{DType, GraphBuilder, GraphError, Interpolation, Tensor};
use crate::models::weights::{Family, SharedPool};
use crate::workflow::plan::{Fed, Node, Plan};
use crate::workflow::value::Setting;

/// The place of one node while it is lowered: its inputs, the graph it stands in, the world.
pub struct Cx<'a> {
    build: &'a mut Build,
    plan: &'a Plan,
    env: &'a Env<'a>,
    node: usize,
    stage: Option<usize>,
}

/// Most elements of a tensor that a node gives: 128 Mi, half a gigabyte of floats.
pub const MAX_ELEMENTS: u64 = 128 << 20;

/// What an input holds.
enum Source {
    Nothing,
    Widget(WidgetRef),
    Value(Value),
}

/// A tensor that follows widgets, as a host stage is given it: its type, its shape, the widgets and the encoder.
pub type Follow = (DType, Vec<u64>, LiveTensor);

/// One parameter of a pipeline: its name, what stands for it, and how that is read.
pub type Param = (&'static str, Value, fn(&Setting) -> Result<Json, String>);

impl<'a> Cx<'a> {
    pub(super) fn new(
        build: &'a mut Build,
        plan: &'a Plan,
        env: &'a Env<'a>,
        node: usize,
        stage: Option<usize>,
    ) -> Self {
        Self { build, plan, env, node, stage }
    }

    /// The world.
    pub fn env(&self) -> &'a Env<'a> {
        self.env
    }

    /// The node itself.
    pub fn node(&self) -> &'a Node {
        &self.plan.nodes[self.node]
    }

    /// Whether the node takes part in every frame; else it is folded.
    pub fn is_live(&self) -> bool {
        self.node().live
    }

    /// The graph that the node stands in.
    ///
    /// # Errors
    /// For a class whose values are only held, or that runs on the host.
    pub fn g(&mut self) -> Result<&mut GraphBuilder, LowerError> {
        let stage = self.stage()?;
        self.build.graph(stage).ok_or_else(|| GraphError::Invalid("this class has no graph".to_owned()).into())
    }

    /// Something deserves to be said in the plan.
    pub fn note(&mut self, text: impl Into<String>) {
        let node = self.node();
        self.build.notes.push(format!("node {} ({}): {}", node.id, node.class.name, text.into()));
    }

    /// Weights of this workflow lie in [`Env::scratch`], in `file` too, so its graphs are written there.
    pub fn beside(&mut self, file: Arc<SharedPool>) {
        self.build.beside.push(file);
    }

    /// Why this node cannot be lowered: the input (empty for the node), what is wrong, what would work.
    pub fn refuse(&self, input: &str, reason: impl Into<String>, help: impl Into<String>) -> LowerError {
        LowerError::Refused { input: input.to_owned(), reason: reason.into(), help: help.into(), model: false }
    }

    /// As [`Self::refuse`], when a model is what is missing.
    pub fn refuse_model(&self, input: &str, reason: impl Into<String>, help: impl Into<String>) -> LowerError {
        LowerError::Refused { input: input.to_owned(), reason: reason.into(), help: help.into(), model: true }
    }

    // Inputs that are linked.

    /// Whether what is linked to `input` depends on the frame.
    pub fn moves(&self, input: &str) -> bool {
        let node = self.node();
        let fed = node.class.input(input).and_then(|place| node.inputs.get(place));
        matches!(fed, Some(Fed::Link { node, .. }) if self.plan.nodes[*node].live)
    }

    /// Whether an optional link is there.
    pub fn linked(&self, input: &str) -> bool {
        !matches!(self.source(input), Ok(Source::Nothing) | Err(_))
    }

    /// What is linked to `input`, as it is.
    ///
    /// # Errors
    /// When nothing is linked.
    pub fn value(&self, input: &str) -> Result<Value, LowerError> {
        match self.source(input)? {
            Source::Value(value) => Ok(value),
            Source::Widget(_) | Source::Nothing => Err(self.refuse(input, "nothing is linked to it", "")),
        }
    }

    /// The tensor that is linked to `input`, in this node's graph: a picture (B, H, W, C), a mask (B, H, W), a latent.
    ///
    /// # Errors
    /// When none is linked, or this class has no graph.
    pub fn tensor(&mut self, input: &str) -> Result<Tensor, LowerError> {
        let sym = self.sym(input)?;
        self.bring(sym)
    }

    /// The tensor that is linked to `input`, wherever it is.
    ///
    /// # Errors
    /// When none is linked.
    pub fn sym(&self, input: &str) -> Result<Sym, LowerError> {
        match self.value(input)? {
            Value::Tensor(sym) => Ok(sym),
            _ => Err(self.refuse(input, "no tensor is linked to it", "")),
        }
    }

    /// `sym`, such as one that hangs on something held, as a tensor of this node's graph.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn bring(&mut self, sym: Sym) -> Result<Tensor, LowerError> {
        let stage = self.stage()?;
        self.build.bring(sym, stage)
    }

    /// Type and shape of `sym`.
    ///
    /// # Errors
    /// When a dimension is not known.
    pub fn shape(&self, sym: Sym) -> Result<(DType, Vec<u64>), LowerError> {
        let (dtype, shape) = self.build.shape(sym);
        let shape = shape.ok_or_else(|| GraphError::Invalid("a shape is not known".to_owned()))?;
        Ok((dtype, shape))
    }

    /// What is linked to `input`, which must be a `T` that was [`Value::held`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn held<T: Clone + 'static>(&self, input: &str) -> Result<T, LowerError> {
        match self.value(input)? {
            Value::Held(held) => (*held).as_any().downcast_ref::<T>().cloned(),
            _ => None,
        }
        .ok_or_else(|| {
            self.refuse(input, "what is linked to it is of another make", "link it to a node of the same pack")
        })
    }

    // Widgets whose change asks for another graph.

    /// What stands in the widget `input`, or is known of what is linked to it. A change asks for another graph.
    ///
    /// # Errors
    /// When it is not known while the graph is built.
    pub fn setting(&mut self, input: &str) -> Result<Setting, LowerError> {
        match self.source(input)? {
            Source::Widget(at) => {
                self.build.shaping.insert(at);
                let setting = self.plan.nodes[at.node].setting(at.input).cloned();
                setting.ok_or_else(|| self.refuse(input, "nothing is set", ""))
            }
            Source::Value(Value::Int(n)) => Ok(Setting::Int(n.into())),
            Source::Value(Value::Float(n)) => Ok(Setting::Float(n)),
            Source::Value(Value::Bool(b)) => Ok(Setting::Bool(b)),
            Source::Value(Value::Text(text)) => Ok(Setting::Text(text)),
            Source::Value(_) => Err(self.refuse(
                input,
                "it decides the shape of the graph, and what is linked to it is not known beforehand",
                "type a value in",
            )),
            Source::Nothing => Err(self.refuse(input, "nothing is set", "")),
        }
    }

    /// As [`Self::setting`], without the mark that a change asks for another graph. Whoever looks must also follow the widget
    /// ([`Self::live`]), with an encoder that answers [`EncodeError::Graph`] where another graph is needed.
    ///
    /// # Errors
    /// As there.
    pub fn peek(&self, input: &str) -> Result<Setting, LowerError> {
        let known = match self.source(input)? {
            Source::Widget(at) => self.plan.nodes[at.node].setting(at.input).cloned(),
            Source::Value(Value::Int(n)) => Some(Setting::Int(n.into())),
            Source::Value(Value::Float(n)) => Some(Setting::Float(n)),
            Source::Value(Value::Bool(b)) => Some(Setting::Bool(b)),
            Source::Value(Value::Text(text)) => Some(Setting::Text(text)),
            Source::Value(_) | Source::Nothing => None,
        };
        known.ok_or_else(|| self.refuse(input, "its value is not known beforehand", "type a value in"))
    }

    /// Counts the networks of this node's graph, so that each has a name of its own that does not tell where its node stands.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn network(&mut self) -> Result<usize, LowerError> {
        let stage = self.stage()?;
        self.build.network(stage)
    }

    /// [`Self::setting`] as a whole number.
    ///
    /// # Errors
    /// As there, and when it does not fit.
    pub fn int(&mut self, input: &str) -> Result<i64, LowerError> {
        let number = match self.setting(input)? {
            Setting::Int(n) => i64::try_from(n).ok(),
            other => other.number().filter(|n| n.fract() == 0.0).map(|n| n as i64),
        };
        number.ok_or_else(|| self.refuse(input, "it is no whole number", ""))
    }

    /// [`Self::setting`] as a number.
    ///
    /// # Errors
    /// As there.
    pub fn number(&mut self, input: &str) -> Result<f64, LowerError> {
        let setting = self.setting(input)?;
        setting.number().ok_or_else(|| self.refuse(input, "it is no number", ""))
    }

    /// [`Self::setting`] as true or false.
    ///
    /// # Errors
    /// As there.
    pub fn flag(&mut self, input: &str) -> Result<bool, LowerError> {
        Ok(self.number(input)? != 0.0)
    }

    /// [`Self::setting`] as a text: a choice, a file.
    ///
    /// # Errors
    /// As there.
    pub fn text(&mut self, input: &str) -> Result<String, LowerError> {
        match self.setting(input)? {
            Setting::Text(text) => Ok(text),
            _ => Err(self.refuse(input, "it is no text", "")),
        }
    }

    // Widgets that whatever runs outside of the graphs follows.

    /// What stands in the widget `input`, now and after every change, or is known of what is linked to it.
    ///
    /// # Errors
    /// When it is not known beforehand.
    pub fn known(&self, input: &str) -> Result<Known, LowerError> {
        match self.source(input)? {
            Source::Widget(at) => Ok(Known::Widget(at)),
            _ => Ok(Known::Value(self.peek(input)?)),
        }
    }

    // Widgets whose change is a tensor write.

    /// The widget `input` as a scalar of this node's graph, f32 (): it broadcasts against anything.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn float(&mut self, input: &str) -> Result<Tensor, LowerError> {
        match self.source(input)? {
            Source::Value(Value::Tensor(sym)) => self.bring(sym),
            _ => self.live(&[input], DType::F32, &[], |settings| {
                let number = settings.first().and_then(Setting::number);
                let number = number.ok_or_else(|| EncodeError::Wrong("it is no number".to_owned()))?;
                Ok(Data::F32(vec![number as f32]))
            }),
        }
    }

    /// A tensor of this node's graph that follows the widgets `inputs`: `encode` makes its elements from their settings, in
    /// this order, now and at every change.
    ///
    /// # Errors
    /// When an input's value is not known beforehand; those of `encode` for the settings of now.
    pub fn live(
        &mut self,
        inputs: &[&str],
        dtype: DType,
        shape: &[u64],
        encode: impl Fn(&[Setting]) -> Result<Data, EncodeError> + Send + Sync + 'static,
    ) -> Result<Tensor, LowerError> {
        let (dtype, shape, live) = self.follow(inputs, dtype, shape, encode)?;
        let stage = self.stage()?;
        if live.widgets.is_empty() {
            let data = self.check(&live, dtype, &shape)?;
            return self.build.input(stage, dtype, shape, Feed::Fixed(Arc::new(data)));
        }
        self.build.input(stage, dtype, shape, Feed::Live(live))
    }

    /// As [`Self::live`], for [`Self::host`].
    ///
    /// # Errors
    /// As [`Self::live`].
    pub fn follow(
        &mut self,
        inputs: &[&str],
        dtype: DType,
        shape: &[u64],
        encode: impl Fn(&[Setting]) -> Result<Data, EncodeError> + Send + Sync + 'static,
    ) -> Result<Follow, LowerError> {
        let mut widgets = Vec::new();
        // What is known already is filled in between the widgets.
        let mut known: Vec<Option<Setting>> = Vec::with_capacity(inputs.len());
        for &input in inputs {
            match self.source(input)? {
                Source::Widget(at) => {
                    widgets.push(at);
                    known.push(None);
                }
                _ => known.push(Some(self.setting(input)?)),
            }
        }
        let encode = move |given: &[Setting]| {
            let mut given = given.iter();
            let all: Option<Vec<Setting>> =
                known.iter().map(|known| known.clone().or_else(|| given.next().cloned())).collect();
            encode(&all.ok_or(EncodeError::Graph)?)
        };
        let live = LiveTensor { widgets, encode: Arc::new(encode) };
        self.check(&live, dtype, shape)?;
        Ok((dtype, shape.to_vec(), live))
    }

    fn check(&self, live: &LiveTensor, dtype: DType, shape: &[u64]) -> Result<Data, LowerError> {
        let data = live.encode(self.plan).map_err(|error| match error {
            EncodeError::Wrong(reason) => self.refuse("", reason, ""),
            EncodeError::Graph => self.refuse("", "its settings do not go with each other", ""),
        })?;
        match data.dtype() == dtype && data.len() as u64 == shape.iter().product::<u64>() {
            true => Ok(data),
            false => Err(GraphError::Invalid(format!("{} {} for {dtype} {shape:?}", data.len(), data.dtype())).into()),
        }
    }

    // What comes from elsewhere.

    /// Elements that never change, such as a picture from a file, as an input of this node's graph.
    ///
    /// # Errors
    /// When their number does not fit, or this class has no graph.
    pub fn fixed(&mut self, shape: &[u64], data: Data) -> Result<Tensor, LowerError> {
        if data.len() as u64 != shape.iter().product::<u64>() {
            return Err(GraphError::Invalid(format!("{} elements for {shape:?}", data.len())).into());
        }
        let stage = self.stage()?;
        self.build.input(stage, data.dtype(), shape.to_vec(), Feed::Fixed(Arc::new(data)))
    }

    /// The picture that comes in: u8 (1, H, W, 3).
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn frame(&mut self) -> Result<Tensor, LowerError> {
        let stage = self.stage()?;
        self.build.frame(stage, self.env.size)
    }

    /// A state: what [`Self::keep`] was given at the frame before, zeros at the first of a stream.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn state(&mut self, dtype: DType, shape: &[u64]) -> Result<(Tensor, State), LowerError> {
        let stage = self.stage()?;
        let (tensor, port) = self.build.state(stage, dtype, shape)?;
        Ok((tensor, State { port }))
    }

    /// What a state holds at the next frame: of its type and shape.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn keep(&mut self, state: State, tensor: &Tensor) -> Result<(), LowerError> {
        let stage = self.stage()?;
        self.build.keep(stage, state.port, tensor)
    }

    // What goes out.

    /// A tensor of this node's graph as a value.
    ///
    /// # Errors
    /// When this class has no graph, or the tensor has more than [`MAX_ELEMENTS`].
    pub fn give(&mut self, tensor: &Tensor) -> Result<Value, LowerError> {
        let stage = self.stage()?;
        self.bounded(tensor.shape().elements())?;
        Ok(Value::Tensor(self.build.symbol(stage, tensor.clone())))
    }

    /// The one output of most classes.
    ///
    /// # Errors
    /// As [`Self::give`].
    pub fn one(&mut self, tensor: &Tensor) -> Result<Vec<Value>, LowerError> {
        Ok(vec![self.give(tensor)?])
    }

    /// The widget `input` of this node as a value: whoever takes it follows the widget. What is linked in its place is handed on.
    ///
    /// # Errors
    /// When nothing is there.
    pub fn pass(&self, input: &str) -> Result<Value, LowerError> {
        match self.source(input)? {
            Source::Widget(at) => Ok(Value::Widget(at)),
            Source::Value(value) => Ok(value),
            Source::Nothing => Err(self.refuse(input, "nothing is set", "")),
        }
    }

    /// Fills the host stage that this node is, and gives its outputs.
    ///
    /// # Errors
    /// For a class that is not declared with [`Class::host`](crate::workflow::class::Class::host).
    pub fn host(
        &mut self,
        inputs: &[Sym],
        live: Vec<Follow>,
        outputs: &[(DType, Vec<u64>)],
        body: Box<dyn HostStage>,
    ) -> Result<Vec<Sym>, LowerError> {
        let stage = self.stage()?;
        for (_, shape) in outputs {
            self.bounded(shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n)))?;
        }
        self.build.host(stage, inputs, live, outputs, body)
    }

    /// Fills the host stage that this node is with the pipeline `streamdiffusion`: it takes what is linked to `input`, scaled to
    /// `size` (width, height) where it must be, or no picture at all, and gives one f32 (1, H, W, 3). `fixed` are its
    /// parameters, and those of `given` follow their widgets.
    ///
    /// # Errors
    /// For a class that is not declared with [`Class::stage`](crate::workflow::class::Class::stage), for what is no picture, and
    /// for settings of now that cannot be read.
    pub fn pipeline(
        &mut self,
        input: Option<&str>,
        size: [u32; 2],
        model: Option<(PathBuf, Family)>,
        fixed: Map<String, Json>,
        given: Vec<Param>,
    ) -> Result<Value, LowerError> {
        let stage = self.stage()?;
        let picture = input.map(|input| self.scaled(input, size)).transpose()?;
        let params = self.params(fixed, given)?;
        // Hashers begin with numbers of the system's own: nobody can foresee it, and nobody has to trust it.
        let drawn = u64::from(RandomState::new().build_hasher().finish() as u32);
        Ok(Value::Tensor(self.build.pipeline(stage, picture, Piped { size, model, params, drawn })?))
    }

    /// The picture that is linked to `input`, of `size`.
    fn scaled(&mut self, input: &str, size: [u32; 2]) -> Result<Sym, LowerError> {
        let mut picture = self.sym(input)?;
        let (_, shape) = self.shape(picture)?;
        let [1, height, width, 3] = shape[..] else {
            return Err(self.refuse(input, format!("one picture of three channels is needed, not {shape:?}"), ""));
        };
        let [wide, high] = size.map(u64::from);
        if [width, height] != [wide, high] {
            let scale = |g: &mut GraphBuilder, x: &Tensor| {
                let x = g.transpose(x, &[0, 3, 1, 2])?;
                let x = g.resize(&x, high, wide, Interpolation::Linear)?;
                g.transpose(&x, &[0, 2, 3, 1])
            };
            let reason = format!("it is {width}×{height}, the model takes {wide}×{high}");
            let scaled = self.build.changed(picture, scale)?;
            picture = scaled.ok_or_else(|| self.refuse(input, reason.clone(), "put ImageScale between them"))?;
            self.note(format!("{reason}; it is scaled"));
        }
        Ok(picture)
    }

    /// Fills the stage of its own that this node is with the graph of `file`: it takes what is linked to `input` with the
    /// operators `before` behind it, f32, as `ports[0]`, and gives f32 of `shape` as `ports[1]`. Whoever takes that puts `after`
    /// behind it, which makes f32 of the shape beside it. `None` when what is linked comes from the host, where there are no
    /// operators.
    ///
    /// # Errors
    /// For a node that is no stage of its own ([`Class::apart`](crate::workflow::class::Class::apart)), and those of the
    /// operators.
    pub fn file(
        &mut self,
        input: &str,
        before: impl FnOnce(&mut GraphBuilder, &Tensor) -> Result<Tensor, GraphError>,
        file: PathBuf,
        ports: [String; 2],
        shape: Vec<u64>,
        after: (After, Vec<u64>),
    ) -> Result<Option<Value>, LowerError> {
        let stage = self.stage()?;
        let sym = self.sym(input)?;
        let Some(from) = self.build.changed(sym, before)? else { return Ok(None) };
        self.bounded(after.1.iter().try_fold(1_u64, |product, &n| product.checked_mul(n)))?;
        Ok(Some(Value::Tensor(self.build.file(stage, from, file, ports, shape, after)?)))
    }

    fn params(&self, fixed: Map<String, Json>, given: Vec<Param>) -> Result<LiveParams, LowerError> {
        let mut widgets = Vec::new();
        let mut known = Vec::with_capacity(given.len());
        for (name, value, read) in given {
            let setting = match value {
                Value::Widget(at) => {
                    widgets.push(at);
                    None
                }
                Value::Int(n) => Some(Setting::Int(n.into())),
                Value::Float(n) => Some(Setting::Float(n)),
                Value::Bool(b) => Some(Setting::Bool(b)),
                Value::Text(text) => Some(Setting::Text(text)),
                _ => return Err(self.refuse("", format!("{name} is not known beforehand"), "type a value in")),
            };
            known.push((name, setting, read));
        }
        let encode = move |given: &[Setting]| {
            let mut given = given.iter();
            let mut params = fixed.clone();
            for (name, setting, read) in &known {
                let setting = setting.as_ref().or_else(|| given.next()).ok_or(EncodeError::Graph)?;
                let value = read(setting).map_err(|reason| EncodeError::Wrong(format!("{name}: {reason}")))?;
                params.insert((*name).to_owned(), value);
            }
            Ok(params)
        };
        let params = LiveParams { widgets, encode: Arc::new(encode) };
        match params.encode(self.plan) {
            Ok(_) => Ok(params),
            Err(EncodeError::Wrong(reason)) => Err(self.refuse("", reason, "")),
            Err(EncodeError::Graph) => Err(self.refuse("", "its settings are not known beforehand", "")),
        }
    }

    /// Says that `value`, f32 (1, H, W, 3), is the picture that comes in.
    pub fn is_camera(&mut self, value: &Value) {
        if let Value::Tensor(sym) = value {
            self.build.is_camera(*sym);
        }
    }

    /// Shows what is linked to `input` as it is, if it is the bytes of a picture of the stream's size outside of any graph.
    /// Whether it is.
    ///
    /// # Errors
    /// When no tensor is linked.
    pub fn show_bytes(&mut self, input: &str) -> Result<bool, LowerError> {
        let sym = self.sym(input)?;
        Ok(self.build.show_bytes(sym, self.env.size))
    }

    /// Shows `picture`, u8 (1, H, W, 3) of this node's graph. The first picture that is shown is the stream's.
    ///
    /// # Errors
    /// When this class has no graph.
    pub fn show(&mut self, picture: &Tensor) -> Result<(), LowerError> {
        let stage = self.stage()?;
        if self.build.shown.is_none() {
            let output = self.build.output(stage, picture, Some("frame_out"))?;
            self.build.shown = Some((stage, output));
        }
        Ok(())
    }

    /// Lets the stream's sound become `sound`. The first that is given is the stream's.
    pub fn sounds(&mut self, sound: Sound) {
        if self.build.sound.is_none() {
            self.build.sound = Some(sound);
        } else {
            self.note("the sound of another node is heard; this one's is not");
        }
    }

    /// Sends a text.
    pub fn tells(&mut self, text: Text) {
        self.build.texts.push(text);
    }

    fn bounded(&self, elements: Option<u64>) -> Result<(), LowerError> {
        match elements {
            Some(elements) if elements <= MAX_ELEMENTS => Ok(()),
            _ => {
                let reason = format!("what it makes has more than {MAX_ELEMENTS} numbers");
                Err(self.refuse("", reason, "make the picture or the batch smaller"))
            }
        }
    }

    fn stage(&self) -> Result<usize, LowerError> {
        self.stage.ok_or_else(|| GraphError::Invalid("this class has no graph".to_owned()).into())
    }

    fn source(&self, input: &str) -> Result<Source, LowerError> {
        let node = self.node();
        let place = node.class.input(input);
        let Some(place) = place else {
            return Err(GraphError::Invalid(format!("{} has no input {input}", node.class.name)).into());
        };
        Ok(match &node.inputs[place] {
            Fed::Nothing => Source::Nothing,
            Fed::Set(_) => Source::Widget(WidgetRef { node: self.node, input: place }),
            Fed::Link { node, output } => match self.build.value(*node, *output).cloned() {
                Some(Value::Widget(at)) => Source::Widget(at),
                Some(value) => Source::Value(value),
                None => Source::Nothing,
            },
        })
    }
}

/// A state of the graph, see [`Cx::state`].
#[derive(Debug)]
pub struct State {
    port: usize,
}
