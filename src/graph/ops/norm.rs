//! Reductions and normalisations.

use super::super::builder::{float, int};
use super::super::{Dim, GraphBuilder, GraphError, Shape, Tensor};

impl GraphBuilder {
    /// `eˣ / Σ eˣ` along `axis`.
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn softmax(&mut self, x: &Tensor, axis: i64) -> Result<Tensor, GraphError> {
        self.float_only("Softmax", x)?;
        let axis = self.axis("Softmax", axis, x.rank())?;
        self.node("Softmax", &[x], vec![int("axis", axis as i64)], x.dtype(), x.shape().clone())
    }

    /// The mean along `axes`, which stay as dimensions of 1 where `keep` says so.
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn reduce_mean(&mut self, x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, GraphError> {
        self.reduce("ReduceMean", x, axes, keep)
    }

    /// The sum along `axes`; as [`Self::reduce_mean`].
    ///
    /// # Errors
    /// As [`Self::reduce_mean`].
    pub fn reduce_sum(&mut self, x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, GraphError> {
        self.reduce("ReduceSum", x, axes, keep)
    }

    /// The largest along `axes`; as [`Self::reduce_mean`].
    ///
    /// # Errors
    /// As [`Self::reduce_mean`].
    pub fn reduce_max(&mut self, x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, GraphError> {
        self.reduce("ReduceMax", x, axes, keep)
    }

    fn reduce(&mut self, op: &'static str, x: &Tensor, axes: &[i64], keep: bool) -> Result<Tensor, GraphError> {
        self.float_only(op, x)?;
        let mut places = Vec::with_capacity(axes.len());
        for &axis in axes {
            let place = self.axis(op, axis, x.rank())?;
            if places.contains(&place) {
                return Err(self.shape_error(op, format!("axis {axis} is named twice")));
            }
            places.push(place);
        }
        if places.is_empty() {
            return Err(self.shape_error(op, "no axis is named".to_owned()));
        }
        let dims = x.shape().dims().iter().enumerate().filter_map(|(i, dim)| match (places.contains(&i), keep) {
            (false, _) => Some(dim.clone()),
            (true, true) => Some(Dim::Fixed(1)),
            (true, false) => None,
        });
        let shape = Shape::new(dims);
        let signed: Vec<i64> = places.iter().map(|&i| i as i64).collect();
        // The largest of a set takes its axes as an attribute up to operator set 17 and as an input since 18, as do the others.
        let axes = self.ints([signed.len() as u64], &signed)?;
        self.node(op, &[x, &axes], vec![int("keepdims", keep.into())], x.dtype(), shape)
    }

    /// `(x − mean) / √(variance + epsilon) · scale + bias`, with mean and variance over the last dimension and `scale` and
    /// `bias` of its length.
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn layer_norm(
        &mut self,
        x: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        epsilon: f32,
    ) -> Result<Tensor, GraphError> {
        let op = "LayerNormalization";
        self.float_only(op, x)?;
        let Some(last) = x.shape().dims().last() else {
            return Err(self.shape_error(op, "a scalar has no last dimension".to_owned()));
        };
        for other in [scale, bias] {
            self.same_dtype(op, x, other)?;
            if other.shape().dims() != [last.clone()] {
                return Err(self.shape_error(op, format!("{} does not fit {last}", other.shape())));
            }
        }
        self.node(op, &[x, scale, bias], vec![int("axis", -1), float("epsilon", epsilon)], x.dtype(), x.shape().clone())
    }

    /// As [`Self::layer_norm`], with mean and variance over all dimensions of a picture but the first two, and `scale` and
    /// `bias` (C) for `x` (N, C, …).
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn instance_norm(
        &mut self,
        x: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        epsilon: f32,
    ) -> Result<Tensor, GraphError> {
        let op = "InstanceNormalization";
        self.float_only(op, x)?;
        let [_, channels, _, ..] = x.shape().dims() else {
            return Err(self.shape_error(op, format!("at least 3 dimensions are needed, not {}", x.shape())));
        };
        for other in [scale, bias] {
            self.same_dtype(op, x, other)?;
            if other.shape().dims() != [channels.clone()] {
                return Err(self.shape_error(op, format!("{} does not fit {channels} channels", other.shape())));
            }
        }
        self.node(op, &[x, scale, bias], vec![float("epsilon", epsilon)], x.dtype(), x.shape().clone())
    }

    /// Normalises each of `groups` groups of channels of `x` (N, C, …) by itself, then `· scale + bias` (C), by way of
    /// [`Self::instance_norm`]: the operator of that name means something else before operator set 21.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the groups do not divide the channels or a dimension is symbolic, [`GraphError::Dtype`].
    pub fn group_norm(
        &mut self,
        x: &Tensor,
        groups: u64,
        scale: &Tensor,
        bias: &Tensor,
        epsilon: f32,
    ) -> Result<Tensor, GraphError> {
        let op = "GroupNorm";
        let dims = self.fixed(op, x)?;
        let [batch, channels, _, ..] = dims.as_slice() else {
            return Err(self.shape_error(op, format!("at least 3 dimensions are needed, not {}", x.shape())));
        };
        if groups == 0 || channels % groups != 0 {
            return Err(self.shape_error(op, format!("{groups} groups do not divide {channels} channels")));
        }
        for other in [scale, bias] {
            if other.shape() != &Shape::from([*channels]) {
                return Err(self.shape_error(op, format!("{} does not fit {channels} channels", other.shape())));
            }
        }
        let grouped = self.reshape(x, &[*batch as i64, groups as i64, -1])?;
        let ones = self.floats(x.dtype(), [groups], &vec![1.0; groups as usize])?;
        let zeros = self.floats(x.dtype(), [groups], &vec![0.0; groups as usize])?;
        let normal = self.instance_norm(&grouped, &ones, &zeros, epsilon)?;
        let whole: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
        let normal = self.reshape(&normal, &whole)?;
        // (C) against (N, C, …): a 1 for every dimension behind the channels.
        let behind: Vec<i64> = (1..=dims.len() as i64 - 2).collect();
        let scale = self.unsqueeze(scale, &behind)?;
        let bias = self.unsqueeze(bias, &behind)?;
        let scaled = self.mul(&normal, &scale)?;
        self.add(&scaled, &bias)
    }
}
