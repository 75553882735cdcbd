//! Which of MediaPipe's 468 landmarks are joined. Lists of MediaPipe's `face_mesh_connections` and of FaceMeshMaskNode; the
//! golden drawings and masks of `integration-tests/golden/workflow/make_face.py` are made with the originals.

/// Landmarks of a face.
pub const POINTS: usize = 468;
/// The outer corners of the eyes, from which the tilt of a face is told.
pub const CORNERS: [usize; 2] = [33, 263];

/// Lines of one colour, RGB.
pub struct Lines {
    pub colour: [u8; 3],
    pub joins: &'static [[usize; 2]],
}

/// What FaceMeshNode draws, in its order.
pub const LINES: [Lines; 6] = [
    Lines { colour: [10, 200, 10], joins: OVAL },
    Lines { colour: [10, 200, 180], joins: LEFT_EYE },
    Lines { colour: [10, 220, 180], joins: LEFT_EYEBROW },
    Lines { colour: [180, 200, 10], joins: RIGHT_EYE },
    Lines { colour: [180, 220, 10], joins: RIGHT_EYEBROW },
    Lines { colour: [10, 180, 10], joins: LIPS },
];

#[rustfmt::skip]
const OVAL: &[[usize; 2]] = &[
    [10, 338], [21, 54], [54, 103], [58, 132], [67, 109], [93, 234], [103, 67], [109, 10], [127, 162], [132, 93], [136, 172],
    [148, 176], [149, 150], [150, 136], [152, 148], [162, 21], [172, 58], [176, 149], [234, 127], [251, 389], [284, 251],
    [288, 397], [297, 332], [323, 361], [332, 284], [338, 297], [356, 454], [361, 288], [365, 379], [377, 152], [378, 400],
    [379, 378], [389, 356], [397, 365], [400, 377], [454, 323],
];
#[rustfmt::skip]
const LEFT_EYE: &[[usize; 2]] = &[
    [249, 390], [263, 249], [263, 466], [373, 374], [374, 380], [380, 381], [381, 382], [382, 362], [384, 398], [385, 384],
    [386, 385], [387, 386], [388, 387], [390, 373], [398, 362], [466, 388],
];
#[rustfmt::skip]
const LEFT_EYEBROW: &[[usize; 2]] = &[
    [276, 283], [282, 295], [283, 282], [293, 334], [295, 285], [296, 336], [300, 293], [334, 296],
];
#[rustfmt::skip]
const RIGHT_EYE: &[[usize; 2]] = &[
    [7, 163], [33, 7], [33, 246], [144, 145], [145, 153], [153, 154], [154, 155], [155, 133], [157, 173], [158, 157], [159, 158],
    [160, 159], [161, 160], [163, 144], [173, 133], [246, 161],
];
#[rustfmt::skip]
const RIGHT_EYEBROW: &[[usize; 2]] = &[
    [46, 53], [52, 65], [53, 52], [63, 105], [65, 55], [66, 107], [70, 63], [105, 66],
];
#[rustfmt::skip]
const LIPS: &[[usize; 2]] = &[
    [0, 267], [13, 312], [14, 317], [17, 314], [37, 0], [39, 37], [40, 39], [61, 146], [61, 185], [78, 95], [78, 191], [80, 81],
    [81, 82], [82, 13], [84, 17], [87, 14], [88, 178], [91, 181], [95, 88], [146, 91], [178, 87], [181, 84], [185, 40],
    [191, 80], [267, 269], [269, 270], [270, 409], [310, 415], [311, 310], [312, 311], [314, 405], [317, 402], [318, 324],
    [321, 375], [324, 308], [375, 291], [402, 318], [405, 321], [409, 291], [415, 308],
];

/// Names of the regions that a mask may have, in the order of [`REGIONS`].
pub const REGION_NAMES: &[&str] =
    &["whole_face", "mouth", "left_eye", "right_eye", "nose", "left_eyebrow", "right_eyebrow", "face_oval"];

/// The corners of each region, and whether it is filled to its convex hull.
pub const REGIONS: [(&[usize], bool); 8] = [
    (FACE, true),
    (MOUTH, true),
    (&[263, 249, 390, 373, 374, 380, 381, 382, 362, 263, 466, 388, 387, 386, 385, 384, 398, 362], false),
    (&[33, 7, 163, 144, 145, 153, 154, 155, 133, 33, 246, 161, 160, 159, 158, 157, 173, 133], false),
    (&[168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175], false),
    (&[276, 283, 282, 295, 285, 300, 293, 334, 296, 336], false),
    (&[46, 53, 52, 65, 55, 70, 63, 105, 66, 107], false),
    (FACE, true),
];

/// Most corners of a region.
pub const MAX_CORNERS: usize = 37;

#[rustfmt::skip]
const FACE: &[usize] = &[
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172,
    58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10,
];
#[rustfmt::skip]
const MOUTH: &[usize] = &[
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
];
