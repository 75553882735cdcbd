//! Making pictures larger and smaller.

use super::super::builder::{float, text};
use super::super::{Dim, GraphBuilder, GraphError, Shape, Tensor};

/// How the pixels of a resized picture come from those of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Between the neighbours, with the corners' centres in place (`align_corners = True`).
    Corners,
    /// The pixel at `⌊i · old / new⌋`, as `torch.nn.functional.interpolate` does by default.
    Nearest,
    /// Between the neighbours, with pixel centres at halves (`align_corners = False`), without antialiasing.
    Linear,
    /// The pixel under the new one's centre: `⌊(i + ½) · old / new⌋`, PyTorch's `nearest-exact`.
    NearestExact,
    /// Cubic convolution over 4×4 neighbours with a = −¾, pixel centres at halves, edges repeated: PyTorch's `bicubic`.
    Cubic,
}

impl GraphBuilder {
    /// `x` (N, C, H, W) with another height and width in pixels.
    ///
    /// # Errors
    /// [`GraphError::Shape`] when the old or the new size is 0 or not known, [`GraphError::Dtype`] when the elements are not
    /// floats.
    pub fn resize(&mut self, x: &Tensor, height: u64, width: u64, how: Interpolation) -> Result<Tensor, GraphError> {
        let op = "Resize";
        self.float_only(op, x)?;
        let dims = self.fixed(op, x)?;
        let [batch, channels, old_height, old_width] = dims.as_slice() else {
            return Err(self.shape_error(op, format!("4 dimensions are needed, not {}", x.shape())));
        };
        if [height, width, *old_height, *old_width].contains(&0) {
            return Err(self.shape_error(op, format!("{} cannot become {height}×{width}", x.shape())));
        }
        if how == Interpolation::Cubic && *channels != 1 {
            // Between two transpositions ONNX Runtime turns the layout of a Resize round, and then it has no cubic kernel. It does
            // not look through a Reshape.
            let (images, [batch, channels]) = (batch * channels, [*batch as i64, *channels as i64]);
            let x = self.reshape(x, &[images as i64, 1, *old_height as i64, *old_width as i64])?;
            let y = self.resize(&x, height, width, how)?;
            return self.reshape(&y, &[batch, channels, height as i64, width as i64]);
        }
        let target = [*batch as i64, *channels as i64, height as i64, width as i64];
        let sizes = self.ints([4], &target)?;
        let attributes = match how {
            Interpolation::Corners => {
                vec![text("mode", "linear"), text("coordinate_transformation_mode", "align_corners")]
            }
            Interpolation::Nearest => vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "asymmetric"),
                text("nearest_mode", "floor"),
            ],
            Interpolation::Linear => {
                vec![text("mode", "linear"), text("coordinate_transformation_mode", "pytorch_half_pixel")]
            }
            Interpolation::NearestExact => vec![
                text("mode", "nearest"),
                text("coordinate_transformation_mode", "half_pixel"),
                text("nearest_mode", "round_prefer_ceil"),
            ],
            Interpolation::Cubic => vec![
                text("mode", "cubic"),
                text("coordinate_transformation_mode", "half_pixel"),
                float("cubic_coeff_a", -0.75),
            ],
        };
        let shape = Shape::new([*batch, *channels, height, width].map(Dim::Fixed));
        self.node_with_gaps(op, &[Some(x), None, None, Some(&sizes)], attributes, x.dtype(), shape)
    }
}
