//! The names of `weight_type`.

use super::Layers;

/// How an adapter's strength is spread over the layers of a UNet and over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// The same everywhere.
    Linear,
    /// Falls from the first layer to the last.
    EaseIn,
    /// Rises.
    EaseOut,
    /// Rises to the middle one.
    EaseInOut,
    /// Falls to the middle one.
    ReverseInOut,
    /// Rises from step to step.
    WeakInput,
    /// Falls from step to step.
    WeakOutput,
    /// Falls to the middle step.
    WeakMiddle,
    /// Rises to the middle step.
    StrongMiddle,
    /// Layers that make the style.
    StyleTransfer,
    /// Layers that make the composition.
    Composition,
    /// All layers but those that make the composition.
    StrongStyleTransfer,
    /// Layers that make either.
    StyleAndComposition,
    /// As [`Self::StyleTransfer`].
    StyleTransferPrecise,
    /// As [`Self::Composition`].
    CompositionPrecise,
}

impl WeightType {
    /// All with their names in requests.
    pub const NAMES: [(&'static str, Self); 15] = [
        ("linear", Self::Linear),
        ("ease in", Self::EaseIn),
        ("ease out", Self::EaseOut),
        ("ease in-out", Self::EaseInOut),
        ("reverse in-out", Self::ReverseInOut),
        ("weak input", Self::WeakInput),
        ("weak output", Self::WeakOutput),
        ("weak middle", Self::WeakMiddle),
        ("strong middle", Self::StrongMiddle),
        ("style transfer", Self::StyleTransfer),
        ("composition", Self::Composition),
        ("strong style transfer", Self::StrongStyleTransfer),
        ("style and composition", Self::StyleAndComposition),
        ("style transfer precise", Self::StyleTransferPrecise),
        ("composition precise", Self::CompositionPrecise),
    ];

    /// The type called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// The factor of layer `i` of `layers`, in the file's order: the formulas of livepeer's Diffusers_IPAdapter. Choices of
    /// layers go by the layer in SD 1.x, which has 16, and by the transformer in SDXL, which has 11 of them: 6 makes the style
    /// and 3 the composition there.
    fn layer(self, layers: &Layers, i: usize) -> f32 {
        let last = (layers.count().saturating_sub(1)).max(1) as f32;
        let (at, half) = (i as f32, last / 2.0);
        let off = (at - half).abs() / half.max(1.0);
        let ease = |x: f32| 0.05 + 0.95 * x;
        // The number by which layers are chosen, and what it means.
        let small = layers.transformers == 11;
        let n = if small { layers.all[i].transformer } else { i };
        let (style, composition) = match (small, n) {
            (true, 6) => (1.0, 0.0),
            (true, 3) => (0.0, 1.0),
            (true, _) => (0.0, 0.0),
            (false, 0..4 | 9..) => (1.0, 0.0),
            (false, 4) => (0.0, 0.25),
            (false, 5) => (0.0, 1.0),
            (false, _) => (0.0, 0.0),
        };
        match self {
            Self::EaseIn => ease(1.0 - at / last),
            Self::EaseOut => ease(at / last),
            Self::EaseInOut => ease(1.0 - off),
            Self::ReverseInOut => ease(off),
            Self::StyleTransfer | Self::StyleTransferPrecise => style,
            Self::Composition | Self::CompositionPrecise => composition,
            Self::StyleAndComposition => style + composition,
            Self::StrongStyleTransfer => f32::from(u8::from(composition == 0.0)),
            Self::Linear | Self::WeakInput | Self::WeakOutput | Self::WeakMiddle | Self::StrongMiddle => 1.0,
        }
    }

    /// The factor of step `step` of `steps`.
    fn step(self, step: usize, steps: usize) -> f32 {
        if steps < 2 {
            return 1.0;
        }
        let at = step as f32 / (steps - 1) as f32;
        let off = (2.0 * at - 1.0).abs();
        match self {
            Self::WeakInput => 0.2 + 0.8 * at,
            Self::WeakOutput => 0.2 + 0.8 * (1.0 - at),
            Self::WeakMiddle => 0.2 + 0.8 * off,
            Self::StrongMiddle => 0.2 + 0.8 * (1.0 - off),
            _ => 1.0,
        }
    }

    /// The scales (rows, L) of an adapter of strength `scale` for rows at `steps`, each of 0 … `of` − 1.
    pub fn scales(self, layers: &Layers, scale: f32, steps: &[usize], of: usize) -> Vec<f32> {
        let row = |&step: &usize| {
            let factor = scale * self.step(step, of);
            (0..layers.count()).map(move |i| factor * self.layer(layers, i))
        };
        steps.iter().flat_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Layer;
    use super::*;
    use crate::models::{full, tiny, unet::UnetConfig};

    fn layers(name: &str) -> Layers {
        let json = if name == "sdxl" { full::unet(name) } else { tiny::config(name).unwrap() };
        Layers::of(&UnetConfig::from_json(&json).unwrap())
    }

    fn of(layers: &Layers, name: &str) -> Vec<f32> {
        WeightType::named(name).unwrap().scales(layers, 2.0, &[0], 1)
    }

    #[test]
    fn layers_are_counted_as_in_published_adapters() {
        let small = layers("unet-sd15");
        assert_eq!((small.count(), small.transformers), (16, 16));
        assert_eq!(small.running().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 15, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let widths: Vec<u64> = small.all.iter().map(|layer| layer.width).collect();
        assert_eq!(widths, [8, 8, 16, 16, 32, 32, 32, 32, 32, 16, 16, 16, 8, 8, 8, 32]);
        let large = layers("sdxl");
        assert_eq!((large.count(), large.transformers), (70, 11));
        assert_eq!(large.running().skip(24).take(10).collect::<Vec<_>>(), (60..70).collect::<Vec<_>>());
        assert!(large.all[60..].iter().all(|layer| *layer == Layer { width: 1280, transformer: 4 }));
    }

    #[test]
    fn strength_is_spread_as_the_names_say() {
        let small = layers("unet-sd15");
        assert_eq!(of(&small, "linear"), [2.0; 16]);
        let eased = of(&small, "ease in");
        assert!((eased[0] - 2.0).abs() < 1e-6 && (eased[15] - 0.1).abs() < 1e-6 && eased.is_sorted_by(|a, b| a > b));
        assert!(of(&small, "ease out").iter().rev().zip(&eased).all(|(a, b)| (a - b).abs() < 1e-6));
        let (middle, ends) = (of(&small, "ease in-out"), of(&small, "reverse in-out"));
        assert!((middle[7] - 2.0 * (0.05 + 0.95 * (1.0 - 0.5 / 7.5))).abs() < 1e-6, "{middle:?}");
        assert!(middle.iter().zip(&ends).all(|(a, b)| (a + b - 2.1).abs() < 1e-5));
        assert_eq!(of(&small, "composition"), [0., 0., 0., 0., 0.5, 2., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]);
        assert_eq!(of(&small, "style transfer"), [2., 2., 2., 2., 0., 0., 0., 0., 0., 2., 2., 2., 2., 2., 2., 2.]);
        let both = of(&small, "style and composition");
        assert_eq!(both[4..7], [0.5, 2.0, 0.0]);
        assert_eq!(of(&small, "strong style transfer")[3..7], [2.0, 0.0, 0.0, 2.0]);
        assert_eq!(of(&small, "style transfer precise"), of(&small, "style transfer"));
        assert_eq!(of(&small, "composition precise"), of(&small, "composition"));

        // What the reference leaves at zero in SDXL.
        let large = layers("sdxl");
        let on = |name: &str| of(&large, name).iter().enumerate().filter(|(_, x)| **x > 0.0).map(|(i, _)| i).collect();
        let style: Vec<usize> = on("style transfer");
        assert_eq!(style, (34..44).collect::<Vec<_>>(), "up_blocks.0.attentions.1");
        let composition: Vec<usize> = on("composition");
        assert_eq!(composition, (14..24).collect::<Vec<_>>(), "down_blocks.2.attentions.1");
        let strong: Vec<usize> = on("strong style transfer");
        assert_eq!(strong.len(), 60);
    }

    #[test]
    fn some_types_change_from_step_to_step() {
        let small = layers("unet-sd15");
        let steps = |name: &str, steps: &[usize], of: usize| -> Vec<f32> {
            let all = WeightType::named(name).unwrap().scales(&small, 1.0, steps, of);
            all.chunks(16).map(|row| row[3]).collect()
        };
        assert!(steps("weak input", &[0, 1, 2], 3).iter().zip([0.2, 0.6, 1.0]).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_eq!(steps("weak output", &[0, 0, 1], 2), [1.0, 1.0, 0.2]);
        assert_eq!(steps("weak middle", &[0, 1, 2], 3), [1.0, 0.2, 1.0]);
        assert_eq!(steps("strong middle", &[0, 1, 2], 3), [0.2, 1.0, 0.2]);
        // One step is no progress.
        assert_eq!(steps("weak input", &[0], 1), [1.0]);
        assert_eq!(steps("linear", &[0, 1], 2), [1.0, 1.0]);
    }
}
