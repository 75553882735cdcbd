//! The layers that models are made of: a graph builder that knows where its weights are.

use std::collections::HashMap;

use super::{ModelError, Source, Stored};
use crate::graph::{Conv, DType, GraphBuilder, Tensor};

/// Weights that are in a graph already, so that a model which is asked several times has them once.
#[derive(Default)]
pub struct Shared(HashMap<(String, DType), Tensor>);

/// A place in a model: the graph, the weights, and the name that both are under.
///
/// Activations are of one type, [`Net::dtype`]. Normalisations are computed in `f32` whatever that type is.
pub struct Net<'a> {
    /// The graph.
    pub g: &'a mut GraphBuilder,
    source: &'a mut dyn Source,
    dtype: DType,
    path: String,
    shared: Option<&'a mut Shared>,
}

impl<'a> Net<'a> {
    /// The root of a model with activations and weights of `dtype`.
    pub fn new(g: &'a mut GraphBuilder, source: &'a mut dyn Source, dtype: DType) -> Self {
        Self { g, source, dtype, path: String::new(), shared: None }
    }

    /// As [`Self::new`], for a model that is asked several times in one graph: every weight is put in once, under the name of
    /// the first time. `shared` belongs to this graph and this source.
    pub fn sharing(g: &'a mut GraphBuilder, source: &'a mut dyn Source, dtype: DType, shared: &'a mut Shared) -> Self {
        Self { g, source, dtype, path: String::new(), shared: Some(shared) }
    }

    /// Type of the activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Everything that `build` adds is under `name`, in the graph and among the weights.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn within<R>(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Net<'_>) -> Result<R, ModelError>,
    ) -> Result<R, ModelError> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let (source, dtype, shared) = (&mut *self.source, self.dtype, self.shared.as_deref_mut());
        self.g.scope(name, |g| Ok(build(&mut Net { g, source, dtype, path, shared })))?
    }

    /// Everything that `build` adds is under `name` in the graph, while the weights keep their names: for a model whose
    /// weights are in files of their own.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn place<R>(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Net<'_>) -> Result<R, ModelError>,
    ) -> Result<R, ModelError> {
        let (source, dtype, path) = (&mut *self.source, self.dtype, self.path.clone());
        let shared = self.shared.as_deref_mut();
        self.g.scope(name, |g| Ok(build(&mut Net { g, source, dtype, path, shared })))?
    }

    /// True when the weight `name` of this place exists.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.full(name))
    }

    /// The weight `name` of this place in the type of the activations.
    ///
    /// # Errors
    /// Those of the [`Source`].
    pub fn weight(&mut self, name: &str, shape: &[u64]) -> Result<Tensor, ModelError> {
        self.weight_as(name, shape, self.dtype)
    }

    fn weight_as(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Tensor, ModelError> {
        let key = (self.full(name), dtype);
        if let Some(known) = self.shared.as_ref().and_then(|shared| shared.0.get(&key)) {
            return Ok(known.clone());
        }
        let weight = match self.source.tensor(&key.0, shape, dtype)? {
            Stored::Inline(bytes) => self.g.initializer(name, dtype, shape, bytes)?,
            Stored::External(place) => self.g.external(name, dtype, shape, &place)?,
        };
        if let Some(shared) = &mut self.shared {
            shared.0.insert(key, weight.clone());
        }
        Ok(weight)
    }

    fn full(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A convolution of `x` (N, C, H, W) to `out` channels with a square kernel of side `kernel`.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn conv(
        &mut self,
        name: &str,
        x: &Tensor,
        out: u64,
        kernel: u64,
        bias: bool,
        how: Conv,
    ) -> Result<Tensor, ModelError> {
        let channels = channels(x)?;
        self.within(name, |net| {
            let weight = net.weight("weight", &[out, channels, kernel, kernel])?;
            let bias = if bias { Some(net.weight("bias", &[out])?) } else { None };
            Ok(net.g.conv(x, &weight, bias.as_ref(), how)?)
        })
    }

    /// A convolution of side 3 that keeps the size, with a bias.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn conv3(&mut self, name: &str, x: &Tensor, out: u64) -> Result<Tensor, ModelError> {
        self.conv(name, x, out, 3, true, Conv::padded(1))
    }

    /// A convolution of side 1, with a bias.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn conv1(&mut self, name: &str, x: &Tensor, out: u64) -> Result<Tensor, ModelError> {
        self.conv(name, x, out, 1, true, Conv::padded(0))
    }

    /// `x · weightᵀ (+ bias)` for `x` (rows, features).
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn linear(&mut self, name: &str, x: &Tensor, out: u64, bias: bool) -> Result<Tensor, ModelError> {
        let features = fixed(x, x.rank().saturating_sub(1))?;
        self.within(name, |net| {
            let weight = net.weight("weight", &[out, features])?;
            let bias = if bias { Some(net.weight("bias", &[out])?) } else { None };
            Ok(net.g.gemm(x, &weight, bias.as_ref())?)
        })
    }

    /// Group normalisation of `x` (N, C, …), in `f32`.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn group_norm(&mut self, name: &str, x: &Tensor, groups: u64, epsilon: f32) -> Result<Tensor, ModelError> {
        let channels = channels(x)?;
        self.within(name, |net| {
            let scale = net.weight_as("weight", &[channels], DType::F32)?;
            let bias = net.weight_as("bias", &[channels], DType::F32)?;
            let wide = net.g.cast(x, DType::F32)?;
            let normal = net.g.group_norm(&wide, groups, &scale, &bias, epsilon)?;
            Ok(net.g.cast(&normal, x.dtype())?)
        })
    }

    /// Layer normalisation over the last dimension of `x`. The operator sums in `f32` whatever its input is.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn layer_norm(&mut self, name: &str, x: &Tensor, epsilon: f32) -> Result<Tensor, ModelError> {
        let features = fixed(x, x.rank().saturating_sub(1))?;
        self.within(name, |net| {
            let scale = net.weight("weight", &[features])?;
            let bias = net.weight("bias", &[features])?;
            Ok(net.g.layer_norm(x, &scale, &bias, epsilon)?)
        })
    }
}

/// Dimension `i` of `x`, which must be known.
pub(super) fn fixed(x: &Tensor, i: usize) -> Result<u64, ModelError> {
    x.shape().dims().get(i).and_then(crate::graph::Dim::fixed).ok_or_else(|| {
        ModelError::config("shape", format!("dimension {i} of {} must be known while the graph is built", x.shape()))
    })
}

/// The channels of `x` (N, C, …).
pub(super) fn channels(x: &Tensor) -> Result<u64, ModelError> {
    fixed(x, 1)
}
