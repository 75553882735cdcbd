//! Products, convolutions and pools.

use super::super::builder::{float, int, ints};
use super::super::{Dim, GraphBuilder, GraphError, Shape, Tensor};

/// How a convolution moves over the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Pixels from one place to the next, down and right.
    pub stride: [u64; 2],
    /// Zeros around the picture: top, left, bottom, right.
    pub padding: [u64; 4],
    /// Pixels between two taps of the kernel, down and right.
    pub dilation: [u64; 2],
    /// Groups of channels that do not see each other.
    pub groups: u64,
}

impl Conv {
    /// Stride 1 and `n` zeros on every side.
    pub const fn padded(n: u64) -> Self {
        Self { stride: [1, 1], padding: [n; 4], dilation: [1, 1], groups: 1 }
    }

    /// The same with a stride of `n`.
    pub const fn stride(mut self, n: u64) -> Self {
        self.stride = [n, n];
        self
    }
}

impl Default for Conv {
    fn default() -> Self {
        Self::padded(0)
    }
}

/// How a pool moves over the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Height and width of the window in pixels.
    pub window: [u64; 2],
    /// Pixels from one place to the next, down and right.
    pub stride: [u64; 2],
}

impl GraphBuilder {
    /// A convolution of `x` (N, C, H, W) with `weight` (M, C / groups, kh, kw) and `bias` (M), to (N, M, H', W').
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`]; also when the kernel does not fit the padded picture.
    pub fn conv(
        &mut self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        how: Conv,
    ) -> Result<Tensor, GraphError> {
        let op = "Conv";
        self.float_only(op, x)?;
        self.same_dtype(op, x, weight)?;
        self.rank(op, x, 4)?;
        self.rank(op, weight, 4)?;
        let Picture { batch, channels, height, width } = self.picture(op, x)?;
        let weight_dims = self.fixed(op, weight)?;
        let [filters, depth, kernel @ ..] = weight_dims.as_slice() else {
            return Err(self.shape_error(op, format!("a weight of 4 dimensions is needed, not {}", weight.shape())));
        };
        if how.groups == 0 || depth.checked_mul(how.groups) != Some(channels) || filters % how.groups != 0 {
            let reason = format!("weight {} does not fit {} in {} groups", weight.shape(), x.shape(), how.groups);
            return Err(self.shape_error(op, reason));
        }
        self.check_bias(op, x, bias, *filters)?;
        let [top, left, bottom, right] = how.padding;
        let size = [(height, top, bottom), (width, left, right)];
        let mut out = [0; 2];
        for (i, (length, before, after)) in size.into_iter().enumerate() {
            let reach = (kernel[i].max(1) - 1).saturating_mul(how.dilation[i]).saturating_add(1);
            let padded = length.saturating_add(before).saturating_add(after);
            if kernel[i] == 0 || how.stride[i] == 0 || how.dilation[i] == 0 || reach > padded {
                return Err(self.shape_error(op, format!("kernel {kernel:?} does not fit {} ({how:?})", x.shape())));
            }
            out[i] = (padded - reach) / how.stride[i] + 1;
        }
        let shape = Shape::new([batch, Dim::Fixed(*filters), Dim::Fixed(out[0]), Dim::Fixed(out[1])]);
        let attributes = vec![
            ints("kernel_shape", &signed(kernel)),
            ints("strides", &signed(&how.stride)),
            ints("pads", &signed(&how.padding)),
            ints("dilations", &signed(&how.dilation)),
            int("group", how.groups as i64),
        ];
        self.node_with_gaps(op, &operands(x, weight, bias), attributes, x.dtype(), shape)
    }

    /// The average of each window of `x` (N, C, H, W); rests at the edges are left out.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the window does not fit, [`GraphError::Dtype`].
    pub fn average_pool(&mut self, x: &Tensor, how: Pool) -> Result<Tensor, GraphError> {
        self.pool("AveragePool", x, how)
    }

    /// The largest of each window; as [`Self::average_pool`].
    ///
    /// # Errors
    /// As [`Self::average_pool`].
    pub fn max_pool(&mut self, x: &Tensor, how: Pool) -> Result<Tensor, GraphError> {
        self.pool("MaxPool", x, how)
    }

    fn pool(&mut self, op: &'static str, x: &Tensor, how: Pool) -> Result<Tensor, GraphError> {
        self.float_only(op, x)?;
        self.rank(op, x, 4)?;
        let Picture { batch, channels, height, width } = self.picture(op, x)?;
        let fits = how.window[0] > 0 && how.window[1] > 0 && how.window[0] <= height && how.window[1] <= width;
        if !fits || how.stride.contains(&0) {
            return Err(self.shape_error(op, format!("{how:?} does not fit {}", x.shape())));
        }
        let down = (height - how.window[0]) / how.stride[0] + 1;
        let across = (width - how.window[1]) / how.stride[1] + 1;
        let shape = Shape::new([batch, Dim::Fixed(channels), Dim::Fixed(down), Dim::Fixed(across)]);
        let attributes = vec![ints("kernel_shape", &signed(&how.window)), ints("strides", &signed(&how.stride))];
        self.node(op, &[x], attributes, x.dtype(), shape)
    }

    /// The matrix product of the last two dimensions; those before them broadcast. Both need at least two.
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn matmul(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, GraphError> {
        let op = "MatMul";
        self.float_only(op, a)?;
        self.same_dtype(op, a, b)?;
        let wrong = |g: &Self| g.shape_error(op, format!("{} · {} is no product", a.shape(), b.shape()));
        let ([a_batch @ .., rows, inner], [b_batch @ .., inner_too, columns]) = (a.shape().dims(), b.shape().dims())
        else {
            return Err(wrong(self));
        };
        if inner != inner_too {
            return Err(wrong(self));
        }
        let batch = Shape::new(a_batch.iter().cloned()).broadcast(&Shape::new(b_batch.iter().cloned()));
        let batch = batch.ok_or_else(|| wrong(self))?;
        let dims = batch.dims().iter().chain([rows, columns]).cloned();
        let shape = Shape::new(dims);
        self.node(op, &[a, b], Vec::new(), a.dtype(), shape)
    }

    /// `x · weightᵀ + bias` of matrices: `x` (n, k), `weight` (m, k) as layers of neural networks store it, `bias` (m).
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn gemm(&mut self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, GraphError> {
        let op = "Gemm";
        self.float_only(op, x)?;
        self.same_dtype(op, x, weight)?;
        let ([rows, inner], [columns, inner_too]) = (x.shape().dims(), weight.shape().dims()) else {
            return Err(self.shape_error(op, format!("{} and {} are no matrices", x.shape(), weight.shape())));
        };
        if inner != inner_too {
            return Err(self.shape_error(op, format!("{} · {}ᵀ is no product", x.shape(), weight.shape())));
        }
        if let Some(bias) = bias {
            self.same_dtype(op, x, bias)?;
            if bias.shape().dims() != [columns.clone()] {
                return Err(self.shape_error(op, format!("bias {} does not fit {columns}", bias.shape())));
            }
        }
        let shape = Shape::new([rows.clone(), columns.clone()]);
        let attributes = vec![float("alpha", 1.0), float("beta", 1.0), int("transA", 0), int("transB", 1)];
        self.node_with_gaps(op, &operands(x, weight, bias), attributes, x.dtype(), shape)
    }

    /// `x · weightᵀ + bias` over the last dimension of `x` (…, k), with `weight` (m, k) and `bias` (m).
    ///
    /// # Errors
    /// [`GraphError::Shape`] or [`GraphError::Dtype`].
    pub fn linear(&mut self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, GraphError> {
        if x.rank() == 2 {
            return self.gemm(x, weight, bias);
        }
        self.rank("MatMul", weight, 2)?;
        let transposed = self.transpose(weight, &[1, 0])?;
        let product = self.matmul(x, &transposed)?;
        match bias {
            None => Ok(product),
            Some(bias) => {
                self.rank("Add", bias, 1)?;
                self.add(&product, bias)
            }
        }
    }

    /// Batch as it is, channels, height and width in numbers.
    fn picture(&self, op: &str, x: &Tensor) -> Result<Picture, GraphError> {
        if let [batch, channels, height, width] = x.shape().dims()
            && let (Some(channels), Some(height), Some(width)) = (channels.fixed(), height.fixed(), width.fixed())
        {
            return Ok(Picture { batch: batch.clone(), channels, height, width });
        }
        Err(self.shape_error(op, format!("channels, height and width must be known, {} has not", x.shape())))
    }

    fn check_bias(&self, op: &str, x: &Tensor, bias: Option<&Tensor>, length: u64) -> Result<(), GraphError> {
        let Some(bias) = bias else { return Ok(()) };
        self.same_dtype(op, x, bias)?;
        if bias.shape() == &Shape::from([length]) {
            return Ok(());
        }
        Err(self.shape_error(op, format!("bias {} does not fit {length}", bias.shape())))
    }
}

struct Picture {
    batch: Dim,
    channels: u64,
    height: u64,
    width: u64,
}

fn operands<'a>(x: &'a Tensor, weight: &'a Tensor, bias: Option<&'a Tensor>) -> Vec<Option<&'a Tensor>> {
    let mut operands = vec![Some(x), Some(weight)];
    operands.extend(bias.map(Some));
    operands
}

fn signed(values: &[u64]) -> Vec<i64> {
    values.iter().map(|&n| n as i64).collect()
}
