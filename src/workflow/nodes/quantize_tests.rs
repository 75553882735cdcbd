#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::quantize::{Dither, Quantize};

fn golden() -> Value {
    let path = [env!("CARGO_MANIFEST_DIR"), "integration-tests/golden/workflow/quantize.json"].join("/");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

// The pictures of golden/workflow/make_quantize.py.

fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn photo(height: i64, width: i64) -> Vec<u8> {
    let discs = [[230, 60, 40], [30, 120, 220], [245, 235, 200]];
    let noise = noise((height * width * 3) as usize, 2);
    let mut out = Vec::new();
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let mut pixel = [x * 200 / width + 20, y * 180 / height + 40, (x + 2 * y) * 150 / (width + 2 * height) + 50];
        for (number, colour) in (0..).zip(discs) {
            let (cy, cx) = (height * (number + 1) / 4, width * (3 - number) / 4);
            let radius = height.min(width) / 5;
            let away = (x - cx).pow(2) + (y - cy).pow(2);
            let share = (256 - away * 256 / (radius * radius)).clamp(0, 256);
            pixel.iter_mut().zip(colour).for_each(|(p, c)| *p = (*p * (256 - share) + c * share) / 256);
        }
        let grain = &noise[out.len()..];
        out.extend(pixel.iter().zip(grain).map(|(p, n)| (p + i64::from(n / 32)).clamp(0, 255) as u8));
    }
    out
}

fn picture(name: &str, height: usize, width: usize) -> Vec<u8> {
    let colours = [[0, 0, 0], [255, 0, 0], [0, 200, 10], [12, 34, 56], [255, 255, 255]];
    match name {
        "random" => noise(height * width * 3, 1),
        "photo" => photo(height as i64, width as i64),
        "few" => (0..height * width).flat_map(|i| colours[(i % width / 5 + i / width / 7 * 3) % 5]).collect(),
        _ => [17, 99, 201].repeat(height * width),
    }
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dither(name: &str) -> Dither {
    match name {
        "none" => Dither::None,
        "floyd-steinberg" => Dither::FloydSteinberg,
        bayer => Dither::Bayer(bayer.strip_prefix("bayer-").unwrap().parse().unwrap()),
    }
}

#[test]
fn pictures_are_those_of_pillow_to_the_byte() {
    let golden = golden();
    for (name, want) in golden["inputs"].as_object().unwrap() {
        assert_eq!(&Value::from(sha(&picture(name, 131, 77))), want, "the picture {name} is another one");
    }
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100, "{}", cases.len());
    for case in cases {
        let number = |i: usize| case[i].as_u64().unwrap() as usize;
        let (height, width) = (number(1), number(2));
        let mut bytes = picture(case[0].as_str().unwrap(), height, width);
        Quantize::new([height, width]).picture(&mut bytes, number(3), dither(case[4].as_str().unwrap()));
        assert_eq!(Value::from(sha(&bytes)), case[5], "{case}");
    }
    // Every number of colours, with the buffers of the one before.
    let mut quantize = Quantize::new([29, 31]);
    let every = (1..=256).flat_map(|colours| {
        let mut bytes = picture("photo", 29, 31);
        quantize.picture(&mut bytes, colours, Dither::None);
        bytes
    });
    assert_eq!(Value::from(sha(&every.collect::<Vec<_>>())), golden["every"]);
}

#[test]
fn dithers_are_those_of_the_list() {
    let all: Vec<_> = (0..7).map_while(Dither::at).collect();
    let bayer = [2, 4, 8, 16].map(Dither::Bayer);
    assert_eq!(all, [&[Dither::None, Dither::FloydSteinberg], &bayer[..]].concat());
}
