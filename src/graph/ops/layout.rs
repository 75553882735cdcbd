//! Operators that move elements without changing them.

use super::super::builder::{int, ints, text};
use super::super::{DType, Dim, GraphBuilder, GraphError, Shape, Tensor};

/// What stands beyond the ends of a padded dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Padding {
    /// This number.
    Number(f64),
    /// The last element again and again.
    Edge,
    /// The elements in reverse, the last one not twice.
    Reflect,
}

impl GraphBuilder {
    /// The same elements in another shape. One entry may be −1: what is left over. Symbolic dimensions cannot be reshaped.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the numbers of elements differ.
    pub fn reshape(&mut self, x: &Tensor, shape: &[i64]) -> Result<Tensor, GraphError> {
        let wrong = |g: &Self| g.shape_error("Reshape", format!("{} cannot become {shape:?}", x.shape()));
        let elements = x.shape().elements().ok_or_else(|| wrong(self))?;
        let open = shape.iter().filter(|&&n| n == -1).count();
        if open > 1 || shape.iter().any(|&n| n < -1) {
            return Err(wrong(self));
        }
        let known = shape.iter().filter(|&&n| n != -1).try_fold(1_u64, |product, &n| product.checked_mul(n as u64));
        let known = known.ok_or_else(|| wrong(self))?;
        let rest = if open == 0 {
            (known == elements).then_some(0)
        } else {
            elements.checked_div(known).filter(|rest| rest.checked_mul(known) == Some(elements))
        };
        let rest = rest.ok_or_else(|| wrong(self))?;
        let dims: Vec<u64> = shape.iter().map(|&n| if n == -1 { rest } else { n as u64 }).collect();
        let target: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
        let target = self.ints([target.len() as u64], &target)?;
        // Zero must mean zero elements here, not "as in the input".
        self.node("Reshape", &[x, &target], vec![int("allowzero", 1)], x.dtype(), Shape::from(dims))
    }

    /// Dimension `i` of the result is dimension `order[i]` of `x`.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when `order` is not an order of the dimensions.
    pub fn transpose(&mut self, x: &Tensor, order: &[usize]) -> Result<Tensor, GraphError> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted != (0..x.rank()).collect::<Vec<_>>() {
            return Err(self.shape_error("Transpose", format!("{order:?} is no order of {}", x.shape())));
        }
        let dims = order.iter().map(|&i| x.shape().dims()[i].clone());
        let perm: Vec<i64> = order.iter().map(|&i| i as i64).collect();
        self.node("Transpose", &[x], vec![ints("perm", &perm)], x.dtype(), Shape::new(dims))
    }

    /// The tensors one after another along `axis`.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when there is none, or when they differ in another dimension; [`GraphError::Dtype`].
    pub fn concat(&mut self, tensors: &[&Tensor], axis: i64) -> Result<Tensor, GraphError> {
        let Some(first) = tensors.first() else {
            return Err(self.shape_error("Concat", "there is nothing to join".to_owned()));
        };
        let axis = self.axis("Concat", axis, first.rank())?;
        let mut total = 0_u64;
        for tensor in tensors {
            self.same_dtype("Concat", first, tensor)?;
            let fits = tensor.rank() == first.rank()
                && first
                    .shape()
                    .dims()
                    .iter()
                    .zip(tensor.shape().dims())
                    .enumerate()
                    .all(|(i, (a, b))| i == axis || a == b);
            let along = tensor.shape().dims().get(axis).and_then(Dim::fixed);
            let (true, Some(along)) = (fits, along) else {
                let reason = format!("{} does not join {} along {axis}", tensor.shape(), first.shape());
                return Err(self.shape_error("Concat", reason));
            };
            total = total.saturating_add(along);
        }
        let mut dims = first.shape().dims().to_vec();
        dims[axis] = Dim::Fixed(total);
        self.node("Concat", tensors, vec![int("axis", axis as i64)], first.dtype(), Shape::new(dims))
    }

    /// Elements `start..end` of `axis`; negative positions count from the end.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the range leaves the dimension.
    pub fn slice(&mut self, x: &Tensor, axis: i64, start: i64, end: i64) -> Result<Tensor, GraphError> {
        self.slice_step(x, axis, start, end, 1)
    }

    /// Every `step`th element of `start..end` of `axis`, beginning with `start`.
    ///
    /// # Errors
    /// As [`Self::slice`]; also when `step` is 0.
    pub fn slice_step(&mut self, x: &Tensor, axis: i64, start: i64, end: i64, step: u64) -> Result<Tensor, GraphError> {
        let axis = self.axis("Slice", axis, x.rank())?;
        let wrong =
            |g: &Self| g.shape_error("Slice", format!("{start}..{end} by {step} of axis {axis} leaves {}", x.shape()));
        let length = x.shape().dims()[axis].fixed().ok_or_else(|| wrong(self))?;
        let place = |n: i64| {
            let n = if n < 0 { n + length as i64 } else { n };
            u64::try_from(n).ok().filter(|&n| n <= length)
        };
        let (Some(from), Some(to)) = (place(start), place(end)) else { return Err(wrong(self)) };
        if from > to || step == 0 || step > i64::MAX as u64 {
            return Err(wrong(self));
        }
        let mut dims = x.shape().dims().to_vec();
        dims[axis] = Dim::Fixed((to - from).div_ceil(step));
        let starts = self.ints([1], &[from as i64])?;
        let ends = self.ints([1], &[to as i64])?;
        let axes = self.ints([1], &[axis as i64])?;
        let steps = self.ints([1], &[step as i64])?;
        self.node("Slice", &[x, &starts, &ends, &axes, &steps], Vec::new(), x.dtype(), Shape::new(dims))
    }

    /// Cuts `axis` into pieces of the given lengths.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the lengths do not add up to the dimension.
    pub fn split(&mut self, x: &Tensor, axis: i64, lengths: &[u64]) -> Result<Vec<Tensor>, GraphError> {
        let axis = self.axis("Split", axis, x.rank())?;
        let sum = lengths.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        if lengths.is_empty() || sum.is_none() || sum != x.shape().dims()[axis].fixed() {
            return Err(self.shape_error("Split", format!("{lengths:?} do not make up axis {axis} of {}", x.shape())));
        }
        let types = lengths
            .iter()
            .map(|&length| {
                let mut dims = x.shape().dims().to_vec();
                dims[axis] = Dim::Fixed(length);
                (x.dtype(), Shape::new(dims))
            })
            .collect();
        let lengths: Vec<i64> = lengths.iter().map(|&n| n as i64).collect();
        let lengths = self.ints([lengths.len() as u64], &lengths)?;
        self.node_of_many("Split", &[Some(x), Some(&lengths)], vec![int("axis", axis as i64)], types)
    }

    /// Rows of `x` along `axis`, picked by `indices`, whose shape takes the place of that dimension.
    ///
    /// # Errors
    /// [`GraphError::Dtype`] when `indices` are not `i32` or `i64`, [`GraphError::Shape`].
    pub fn gather(&mut self, x: &Tensor, indices: &Tensor, axis: i64) -> Result<Tensor, GraphError> {
        if !matches!(indices.dtype(), DType::I32 | DType::I64) {
            return Err(self.dtype_error("Gather", format!("indices are whole numbers, not {}", indices.dtype())));
        }
        let axis = self.axis("Gather", axis, x.rank())?;
        let dims = x.shape().dims();
        let picked = dims[..axis].iter().chain(indices.shape().dims()).chain(&dims[axis + 1..]).cloned();
        let shape = Shape::new(picked);
        self.node("Gather", &[x, indices], vec![int("axis", axis as i64)], x.dtype(), shape)
    }

    /// Puts dimensions of 1 where the result's `axes` are.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when an axis does not exist or is named twice.
    pub fn unsqueeze(&mut self, x: &Tensor, axes: &[i64]) -> Result<Tensor, GraphError> {
        let rank = x.rank() + axes.len();
        let mut places = Vec::with_capacity(axes.len());
        for &axis in axes {
            let place = self.axis("Unsqueeze", axis, rank)?;
            if places.contains(&place) {
                return Err(self.shape_error("Unsqueeze", format!("axis {axis} is named twice")));
            }
            places.push(place);
        }
        let mut old = x.shape().dims().iter().cloned();
        let dims: Vec<Dim> =
            (0..rank).filter_map(|i| if places.contains(&i) { Some(Dim::Fixed(1)) } else { old.next() }).collect();
        let axes = self.axes(&places)?;
        self.node("Unsqueeze", &[x, &axes], Vec::new(), x.dtype(), Shape::new(dims))
    }

    /// Removes `axes`, which must be 1.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when an axis does not exist or is not 1.
    pub fn squeeze(&mut self, x: &Tensor, axes: &[i64]) -> Result<Tensor, GraphError> {
        let mut places = Vec::with_capacity(axes.len());
        for &axis in axes {
            let place = self.axis("Squeeze", axis, x.rank())?;
            if x.shape().dims()[place] != Dim::Fixed(1) || places.contains(&place) {
                return Err(self.shape_error("Squeeze", format!("axis {axis} of {} is not 1", x.shape())));
            }
            places.push(place);
        }
        let kept = x.shape().dims().iter().enumerate().filter(|(i, _)| !places.contains(i)).map(|(_, dim)| dim.clone());
        let shape = Shape::new(kept);
        let axes = self.axes(&places)?;
        self.node("Squeeze", &[x, &axes], Vec::new(), x.dtype(), shape)
    }

    /// Repeats dimensions of 1 until the shape is `shape` broadcast with that of `x`.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the two do not broadcast.
    pub fn expand(&mut self, x: &Tensor, shape: &[u64]) -> Result<Tensor, GraphError> {
        let result = x
            .shape()
            .broadcast(&Shape::from(shape))
            .ok_or_else(|| self.shape_error("Expand", format!("{} does not stretch to {shape:?}", x.shape())))?;
        let target: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let target = self.ints([target.len() as u64], &target)?;
        self.node("Expand", &[x, &target], Vec::new(), x.dtype(), result)
    }

    /// Adds `before` and `after` elements of 0 at the ends of each dimension.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the counts are not one for each dimension, or a padded dimension is symbolic;
    /// [`GraphError::Dtype`] for `bool`.
    pub fn pad(&mut self, x: &Tensor, before: &[u64], after: &[u64]) -> Result<Tensor, GraphError> {
        self.pad_with(x, before, after, Padding::Number(0.0))
    }

    /// Adds `before` and `after` elements at the ends of each dimension.
    ///
    /// # Errors
    /// As [`Self::pad`]; also when a mirror image would need more elements than there are.
    pub fn pad_with(&mut self, x: &Tensor, before: &[u64], after: &[u64], with: Padding) -> Result<Tensor, GraphError> {
        if before.len() != x.rank() || after.len() != x.rank() {
            return Err(self.shape_error("Pad", format!("{} needs {} counts a side", x.shape(), x.rank())));
        }
        let dims: Option<Vec<Dim>> = (x.shape().dims().iter().zip(before).zip(after))
            .map(|((dim, &before), &after)| match (dim, before, after) {
                (dim, 0, 0) => Some(dim.clone()),
                (dim, before, after) => {
                    let old = dim.fixed()?;
                    let fits = match with {
                        Padding::Number(_) => true,
                        Padding::Edge => old > 0,
                        Padding::Reflect => before.max(after) < old,
                    };
                    let new = old.checked_add(before)?.checked_add(after)?;
                    fits.then_some(Dim::Fixed(new))
                }
            })
            .collect();
        let dims = dims.ok_or_else(|| self.shape_error("Pad", format!("{} cannot be padded so", x.shape())))?;
        let counts: Vec<i64> = before.iter().chain(after).map(|&n| n as i64).collect();
        let counts = self.ints([counts.len() as u64], &counts)?;
        let shape = Shape::new(dims);
        match with {
            Padding::Number(number) => {
                let number = self.scalar(x.dtype(), number)?;
                self.node("Pad", &[x, &counts, &number], Vec::new(), x.dtype(), shape)
            }
            Padding::Edge => self.node("Pad", &[x, &counts], vec![text("mode", "edge")], x.dtype(), shape),
            Padding::Reflect => self.node("Pad", &[x, &counts], vec![text("mode", "reflect")], x.dtype(), shape),
        }
    }

    fn axes(&mut self, places: &[usize]) -> Result<Tensor, GraphError> {
        let places: Vec<i64> = places.iter().map(|&i| i as i64).collect();
        self.ints([places.len() as u64], &places)
    }
}
