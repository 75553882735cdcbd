//! Reading weights: where they are, what they are called, what is merged into them, and what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use weir::graph::{DType, GraphBuilder};
use weir::models::clip::{self, ClipConfig, Hidden};
use weir::models::synthetic::Synthetic;
use weir::models::tokenizer::ClipTokenizer;
use weir::models::weights::{
    Component, Family, Format, Lora, Part, Pool, Reader, Repository, Weights, WeightsError, cached,
};
use weir::models::{ModelError, Source, Stored};

use super::{Golden, apart, close, config, folder, scale};

type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// Writes `tensors` as elements of `dtype`.
fn write(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| {
            let bytes = values.iter().flat_map(|&x| match dtype {
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
                Dtype::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
                other => panic!("{other:?}"),
            });
            (name, bytes.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        let shape = shape.iter().map(|&n| n as usize).collect();
        (name, TensorView::new(dtype, shape, &bytes[name]).expect("tensor"))
    });
    let file = safetensors::serialize(views, None).expect("safetensors");
    std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
    std::fs::write(path, file).expect("write");
}

fn some() -> Tensors {
    let mut tensors = Tensors::new();
    for (name, shape) in [("a.weight", vec![3, 4]), ("a.bias", vec![3]), ("b.weight", vec![2, 3, 1, 1])] {
        let values = Synthetic::new("some", 1.0).values(name, &shape);
        tensors.insert(name.to_owned(), (shape, values));
    }
    tensors
}

fn refusal<T>(result: Result<T, WeightsError>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn every_format_is_read() {
    let place = tempfile::tempdir().expect("folder");
    let tensors = some();
    for (dtype, format, loss) in
        [(Dtype::F32, Format::F32, 0.0), (Dtype::F16, Format::F16, 1e-3), (Dtype::BF16, Format::Bf16, 1e-2)]
    {
        let path = place.path().join(format!("{dtype:?}.safetensors"));
        write(&path, &tensors, dtype);
        let weights = Weights::open(&path).expect("weights");
        assert_eq!(weights.format(), Some(format));
        assert_eq!(weights.parameters(), 21);
        assert_eq!(weights.bytes(), 21 * format.size() as u64);
        for (name, (shape, values)) in &tensors {
            assert_eq!(weights.shape(name).as_ref(), Some(shape));
            close(name, &weights.read(name, shape).expect("values"), values, loss);
            for (to, rounding) in [(DType::F32, 0.0), (DType::F16, 1e-3)] {
                let Stored::Inline(bytes) = Reader::inline(&weights).tensor(name, shape, to).expect("bytes") else {
                    panic!("inline weights are in memory")
                };
                let got: Vec<f32> = match to {
                    DType::F32 => bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
                    _ => bytes.chunks_exact(2).map(|c| f16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
                };
                close(name, &got, values, loss + rounding);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    let place = tempfile::tempdir().expect("folder");
    let path = place.path().join("model.safetensors");
    write(&path, &some(), Dtype::F32);
    let weights = Weights::open(&path).expect("weights");
    let at = path.display();
    let missing = refusal(weights.read("c.weight", &[2, 2]));
    assert_eq!(missing, format!("{at}: the tensor c.weight is missing; expected one of shape [2, 2]"));
    let shape = refusal(weights.read("a.weight", &[4, 3]));
    assert_eq!(shape, format!("{at}: the tensor a.weight has the shape [3, 4], expected [4, 3]"));
    let error = Reader::checking(&weights).tensor("a.weight", &[4, 3], DType::F16).expect_err("refused");
    assert!(matches!(error, ModelError::Weights(WeightsError::Shape { .. })), "{error}");
    assert!(Reader::checking(&weights).tensor("a.weight", &[3, 4], DType::F16).is_ok());
    assert!(Reader::inline(&weights).tensor("a.weight", &[3, 4], DType::U8).is_err());

    let bytes = std::fs::read(&path).expect("file");
    let cut = place.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() - 1]).expect("write");
    let (found, expected) = (bytes.len() - 1, bytes.len());
    assert_eq!(
        refusal(Weights::open(&cut)),
        format!("{}: the file is truncated: it has {found} bytes, its header speaks of {expected}", cut.display())
    );
    std::fs::write(&cut, &bytes[..40]).expect("write");
    assert!(matches!(Weights::open(&cut), Err(WeightsError::Truncated { found: 40, .. })));
    std::fs::write(&cut, [&bytes[..], &[0]].concat()).expect("write");
    assert!(matches!(Weights::open(&cut), Err(WeightsError::Malformed { .. })));
    std::fs::write(&cut, "").expect("write");
    assert!(matches!(Weights::open(&cut), Err(WeightsError::Truncated { found: 0, .. })));
    std::fs::write(&cut, "<!DOCTYPE html><html>not found</html>").expect("write");
    assert!(matches!(Weights::open(&cut), Err(WeightsError::Malformed { .. })));

    for (name, content) in [
        ("a.ckpt", &b"x"[..]),
        ("b.bin", b"x"),
        ("c.safetensors", b"\x80\x02ctorch\n"),
        ("d.safetensors", b"PK\x03\x04zip"),
    ] {
        let path = place.path().join(name);
        std::fs::write(&path, content).expect("write");
        assert!(matches!(Weights::open(&path), Err(WeightsError::Pickle { .. })), "{name}");
    }
    assert!(matches!(Weights::open(&place.path().join("none.safetensors")), Err(WeightsError::NoFile { .. })));
    assert!(matches!(Weights::open(place.path()), Err(WeightsError::Malformed { .. })));

    let whole = TensorView::new(Dtype::I64, vec![2], &[0; 16]).expect("tensor");
    std::fs::write(&cut, safetensors::serialize([("n", whole)], None).expect("safetensors")).expect("write");
    let wrong = refusal(Weights::open(&cut).expect("a good file").read("n", &[2]));
    assert_eq!(wrong, format!("{}: the tensor n has elements of type i64, expected f32, f16 or bf16", cut.display()));
}

#[test]
fn numbers_too_large_for_half_precision_are_refused() {
    let place = tempfile::tempdir().expect("folder");
    let path = place.path().join("model.safetensors");
    let mut values = vec![0.5; 5000];
    values[4999] = 70_000.0;
    let tensors = Tensors::from([("x".to_owned(), (vec![5000], values))]);
    write(&path, &tensors, Dtype::BF16);
    let weights = Weights::open(&path).expect("weights");
    assert!(Reader::inline(&weights).tensor("x", &[5000], DType::F32).is_ok());
    let error = Reader::inline(&weights).tensor("x", &[5000], DType::F16).expect_err("refused").to_string();
    assert!(error.contains("element 4999 of the tensor x is 70144"), "{error}");
}

/// A model in HuggingFace's cache: blobs, links to them, and a reference.
fn hub(models: &Path, name: &str, commit: &str) -> PathBuf {
    let folder = models.join(format!("models--{}", name.replace('/', "--")));
    std::fs::create_dir_all(folder.join("refs")).expect("folder");
    std::fs::write(folder.join("refs/main"), format!("{commit}\n")).expect("write");
    let snapshot = folder.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).expect("folder");
    snapshot
}

#[test]
fn the_cache_of_huggingface_is_read() {
    let models = tempfile::tempdir().expect("folder");
    let snapshot = hub(models.path(), "org/name", "abc123");
    write(&models.path().join("models--org--name/blobs/0000"), &some(), Dtype::F16);
    std::fs::create_dir_all(snapshot.join("unet")).expect("folder");
    let link = snapshot.join("unet/diffusion_pytorch_model.fp16.safetensors");
    std::os::unix::fs::symlink("../../../blobs/0000", &link).expect("link");
    let find = |id: &str| Repository::find(models.path(), id);
    for id in ["org/name", "org/name@main", "org/name@abc123"] {
        let found = find(id).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(found.root(), snapshot);
        for wanted in [DType::F16, DType::F32] {
            assert_eq!(found.weights(Component::Unet, wanted).expect("weights").format(), Some(Format::F16));
        }
    }
    assert_eq!(cached(models.path()), ["org/name"]);
    for id in ["org/other", "org/name@other", "../name", "/etc", "", "org/../..", "org\\name"] {
        assert!(matches!(find(id), Err(WeightsError::NoModel { .. })), "{id}");
    }
    // A download that is not whole: the link leads nowhere.
    std::fs::remove_file(models.path().join("models--org--name/blobs/0000")).expect("remove");
    let error = refusal(find("org/name").expect("found").weights(Component::Unet, DType::F16));
    assert!(error.starts_with(&link.display().to_string()), "{error}");
    // The reference names what is not there.
    std::fs::write(models.path().join("models--org--name/refs/main"), "def456").expect("write");
    assert!(refusal(find("org/name")).contains("which refs/main names, is not there"));
    std::fs::write(models.path().join("models--org--name/refs/main"), "../../..").expect("write");
    assert!(find("org/name").is_err());
    // Without a reference the only snapshot counts, and none of several.
    std::fs::remove_file(models.path().join("models--org--name/refs/main")).expect("remove");
    assert!(find("org/name").is_ok());
    std::fs::create_dir(models.path().join("models--org--name/snapshots/second")).expect("folder");
    assert!(refusal(find("org/name")).contains("several snapshots"));
}

#[test]
fn plain_folders_variants_and_pickles() {
    let models = tempfile::tempdir().expect("folder");
    let unet = models.path().join("mine/unet");
    let repository = || Repository::find(models.path(), "mine").expect("found");
    write(&unet.join("diffusion_pytorch_model.safetensors"), &some(), Dtype::F32);
    write(&unet.join("diffusion_pytorch_model.fp16.safetensors"), &some(), Dtype::F16);
    let format = |wanted| repository().weights(Component::Unet, wanted).expect("weights").format();
    assert_eq!(format(DType::F32), Some(Format::F32));
    assert_eq!(format(DType::F16), Some(Format::F16));
    let vae = models.path().join("mine/vae");
    std::fs::create_dir(&vae).expect("folder");
    let nothing = refusal(repository().weights(Component::Vae, DType::F16));
    let expected = "diffusion_pytorch_model.fp16.safetensors, or diffusion_pytorch_model.safetensors.index.fp16.json";
    assert!(nothing.starts_with(&format!("{}: no such file; expected {expected}", vae.display())), "{nothing}");
    std::fs::write(vae.join("diffusion_pytorch_model.bin"), "x").expect("write");
    assert!(matches!(repository().weights(Component::Vae, DType::F16), Err(WeightsError::Pickle { .. })));
    assert!(matches!(repository().config(Component::Vae), Err(WeightsError::NoFile { .. })));
    std::fs::write(vae.join("config.json"), "{]").expect("write");
    assert!(matches!(repository().config(Component::Vae), Err(WeightsError::Malformed { .. })));
}

#[test]
fn shards_are_one() {
    let place = tempfile::tempdir().expect("folder");
    let unet = place.path().join("unet");
    let tensors = some();
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let file = format!("diffusion_pytorch_model-0000{}-of-00002.safetensors", i % 2 + 1);
        map.insert(name.clone(), file.clone().into());
        let mut shard = Tensors::from([(name.clone(), tensor.clone())]);
        if i == 2 {
            let first = tensors.first_key_value().expect("first");
            shard.insert(first.0.clone(), first.1.clone());
        }
        write(&unet.join(file), &shard, Dtype::F32);
    }
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    let put = |map: &serde_json::Map<String, serde_json::Value>| {
        std::fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).expect("write");
    };
    put(&map);
    let open = || Repository::at(place.path()).expect("folder").weights(Component::Unet, DType::F32);
    let weights = open().expect("weights");
    assert_eq!(weights.names().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    for (name, (shape, values)) in &tensors {
        assert_eq!(&weights.read(name, shape).expect("values"), values);
    }
    for (tensor, file, expected) in [
        ("ghost", "diffusion_pytorch_model-00001-of-00002.safetensors", "holds ghost, which is not there"),
        ("a.bias", "../x.safetensors", "not a .safetensors file in the same folder"),
        ("a.bias", "x.bin", "not a .safetensors file in the same folder"),
        ("a.bias", "absent.safetensors", "no such file"),
    ] {
        let mut wrong = map.clone();
        wrong.insert(tensor.to_owned(), file.into());
        put(&wrong);
        let error = refusal(open());
        assert!(error.contains(expected), "{error}");
    }
}

/// Shapes that the names of a single file imply, and the values under each name of diffusers.
fn single(kind: &str, prefix: &str) -> (Tensors, Tensors) {
    let (mut stored, mut wanted) = (Tensors::new(), Tensors::new());
    let names = std::fs::read_to_string(folder().join("original-names.txt")).expect("names");
    let own = names.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
    let source = Synthetic::new("single", 1.0);
    for (old, new) in own {
        for (part, shape) in [("weight", vec![2, 3]), ("bias", vec![2])] {
            let name = format!("{new}.{part}");
            let values = source.values(&name, &shape);
            let (old_name, mut old_shape, mut old_values) = match old {
                "positional_embedding" | "text_projection" if part == "bias" => continue,
                "token_embedding" if part == "bias" => continue,
                "positional_embedding" | "text_projection" => (old.to_owned(), shape.clone(), values.clone()),
                _ if old.ends_with("in_proj") => (format!("{old}_{part}"), shape.clone(), values.clone()),
                _ => (format!("{old}.{part}"), shape.clone(), values.clone()),
            };
            if kind == "vae"
                && ["q", "k", "v", "proj_out"].iter().any(|layer| old.ends_with(&format!("attn_1.{layer}")))
                && part == "weight"
            {
                old_shape = vec![2, 3, 1, 1];
            }
            if old == "text_projection" {
                old_shape = vec![3, 2];
                old_values = (0..6).map(|i| values[i % 2 * 3 + i / 2]).collect();
            }
            if old.ends_with("in_proj") {
                // Query, key and value, one upon the other.
                let layer = new.rsplit_once('.').expect("a layer").0;
                old_shape[0] *= 3;
                let third = |x: &str| source.values(&format!("{layer}.{x}_proj.{part}"), &shape);
                old_values = ["q", "k", "v"].iter().flat_map(|x| third(x)).collect();
            }
            wanted.insert(name, (shape, values));
            stored.insert(format!("{prefix}{old_name}"), (old_shape, old_values));
        }
    }
    assert!(wanted.len() > 10, "{kind}");
    (stored, wanted)
}

#[test]
fn single_files_are_translated_as_diffusers_does() {
    let place = tempfile::tempdir().expect("folder");
    for (kind, prefix, component) in [
        ("unet-sd15", "model.diffusion_model.", Component::Unet),
        ("unet-sdxl", "model.diffusion_model.", Component::Unet),
        ("unet-sd15", "", Component::Unet),
        ("controlnet", "control_model.", Component::ControlNet),
        ("vae", "first_stage_model.", Component::Vae),
        ("open-clip", "conditioner.embedders.1.model.", Component::TextEncoder2),
        ("open-clip", "cond_stage_model.model.", Component::TextEncoder),
    ] {
        let (mut stored, wanted) = single(kind, prefix);
        // What checkpoints carry along.
        for name in ["model_ema.decay", "betas", "cond_stage_model.model.logit_scale", "alphas_cumprod"] {
            stored.insert(name.to_owned(), (vec![1], vec![1.0]));
        }
        let path = place.path().join("single.safetensors");
        write(&path, &stored, Dtype::F32);
        let repository = Repository::at(&path).expect("a checkpoint");
        assert!(repository.is_single() && repository.has(component), "{kind}");
        let weights = repository.weights(component, DType::F16).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(weights.names().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{kind}");
        for (name, (shape, values)) in &wanted {
            assert_eq!(&weights.read(name, shape).unwrap_or_else(|error| panic!("{error}")), values, "{name}");
        }
        let text = repository.weights(Component::TextEncoder2, DType::F16);
        assert_eq!(text.is_ok(), component == Component::TextEncoder2);
    }
}

#[test]
fn a_whole_checkpoint_says_what_it_is() {
    let place = tempfile::tempdir().expect("folder");
    let path = place.path().join("models/mine.safetensors");
    let mut all = Tensors::new();
    for (kind, prefix) in [
        ("unet-sd15", "model.diffusion_model."),
        ("vae", "first_stage_model."),
        ("open-clip", "cond_stage_model.model."),
    ] {
        all.extend(single(kind, prefix).0);
    }
    write(&path, &all, Dtype::F16);
    let repository = Repository::find(&place.path().join("models"), "mine").expect("a checkpoint");
    assert_eq!(repository.family().expect("family"), Family::Sd2);
    let unet = repository.config(Component::Unet).expect("config");
    assert_eq!(unet["block_out_channels"].as_array().map(Vec::len), Some(4));
    assert_eq!(unet["layers_per_block"], 2);
    assert_eq!(unet["down_block_types"][3], "DownBlock2D");
    assert_eq!(unet["up_block_types"][0], "UpBlock2D");
    let text = repository.config(Component::TextEncoder).expect("config");
    assert_eq!((&text["num_hidden_layers"], &text["hidden_act"]), (&1.into(), &"gelu".into()));
    assert_eq!(repository.config(Component::Vae).expect("config")["layers_per_block"], 1);
    assert!(!repository.has(Component::TextEncoder2));
    // A file of something else.
    write(&path, &some(), Dtype::F32);
    assert!(Repository::at(&path).expect("a file").family().is_err());
}

/// Base weights of the layers that the LoRAs change.
fn base(place: &Path) -> [PathBuf; 2] {
    let bytes = std::fs::read(folder().join("lora-merged.safetensors")).expect("golden");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut parts = [("lora-unet", Tensors::new()), ("lora-text", Tensors::new())];
    for (name, tensor) in file.tensors() {
        let (_, name) = name.split_once('/').expect("case and name");
        let (key, part) = &mut parts[usize::from(name.starts_with("text_model."))];
        let shape: Vec<u64> = tensor.shape().iter().map(|&n| n as u64).collect();
        let values = Synthetic::new(key, 1.0).values(name, &shape);
        part.insert(name.to_owned(), (shape, values));
    }
    for i in 0..2 {
        parts[0].1.entry(format!("down_blocks.0.resnets.{i}.conv1.weight")).or_insert((vec![1], vec![0.0]));
    }
    parts.map(|(key, tensors)| {
        let path = place.join(format!("{key}.safetensors"));
        write(&path, &tensors, Dtype::F32);
        path
    })
}

fn lora(name: &str) -> Lora {
    Lora::open(&folder().join(format!("lora-{name}.safetensors"))).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn loras_are_merged_as_diffusers_fuses_them() {
    let place = tempfile::tempdir().expect("folder");
    let files = base(place.path());
    let bytes = std::fs::read(folder().join("lora-merged.safetensors")).expect("golden");
    let golden = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let numbers = Golden::read("lora-merged");
    let merged = |list: &[(&str, f32)]| {
        let mut weights = files.each_ref().map(|path| Weights::open(path).expect("base"));
        for (name, factor) in list {
            for (weights, part) in weights.iter_mut().zip([Part::Unet, Part::TextEncoder]) {
                let lora = lora(name);
                let applied = weights.merge(&lora, part, *factor).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(applied.layers, lora.layers(part), "{name}");
            }
        }
        weights
    };
    /// The name, the LoRAs with their weights, and how many weights change.
    type Case<'a> = (&'a str, &'a [(&'a str, f32)], usize);
    let cases: [Case<'_>; 5] = [
        ("kohya", &[("kohya", 0.8)], 13),
        ("peft", &[("peft", 0.5)], 8),
        ("old", &[("old", 1.0)], 3),
        ("original", &[("original", 1.0)], 7),
        ("both", &[("kohya", 0.7), ("peft", -0.4)], 13),
    ];
    for (case, list, count) in cases {
        let names: Vec<String> = golden
            .names()
            .iter()
            .filter_map(|name| Some(name.strip_prefix(case)?.strip_prefix('/')?.to_owned()))
            .collect();
        assert_eq!(names.len(), count, "{case}");
        let weights = merged(list);
        let weaker: Vec<(&str, f32)> = list.iter().map(|(name, factor)| (*name, factor * 0.9)).collect();
        let (weaker, plain) = (merged(&weaker), merged(&[]));
        for name in &names {
            let key = format!("{case}/{name}");
            let (want, shape) = (numbers.get(&key), golden.tensor(&key).expect("golden").shape().to_vec());
            let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
            let text = usize::from(name.starts_with("text_model."));
            let read = |weights: &[Weights; 2]| weights[text].read(name, &shape).expect("values");
            close(&key, &read(&weights), want, 1e-6 * scale(want));
            apart(&format!("{key}, weaker"), &read(&weaker), want, 1e-4);
            apart(&format!("{key}, unmerged"), &read(&plain), want, 1e-3);
            let Stored::Inline(bytes) = Reader::inline(&weights[text]).tensor(name, &shape, DType::F16).expect("bytes")
            else {
                panic!("inline weights are in memory")
            };
            let halves: Vec<f32> = bytes.chunks_exact(2).map(|c| f16::from_le_bytes([c[0], c[1]]).to_f32()).collect();
            close(&format!("{key}, half"), &halves, want, 1e-3 * scale(want));
        }
        assert_ne!(weights[0].fingerprint().expect("fingerprint"), plain[0].fingerprint().expect("fingerprint"));
        assert_ne!(weights[0].fingerprint().expect("fingerprint"), weaker[0].fingerprint().expect("fingerprint"));
    }
}

#[test]
fn large_products_are_shared_out() {
    let place = tempfile::tempdir().expect("folder");
    let (rows, rank, columns) = (600, 40, 900);
    let values = |name: &str, shape: [u64; 2]| (shape.to_vec(), Synthetic::new("large", 1.0).values(name, &shape));
    let weight = values("w", [rows, columns]);
    let (up, down) = (values("up", [rows, rank]), values("down", [rank, columns]));
    write(
        &place.path().join("base.safetensors"),
        &Tensors::from([("conv_in.weight".to_owned(), weight.clone())]),
        Dtype::F32,
    );
    let tensors = Tensors::from([
        ("unet.conv_in.lora_A.weight".to_owned(), down.clone()),
        ("unet.conv_in.lora_B.weight".to_owned(), up.clone()),
        ("unet.conv_in.alpha".to_owned(), (vec![], vec![10.0])),
    ]);
    write(&place.path().join("lora.safetensors"), &tensors, Dtype::F32);
    let mut weights = Weights::open(&place.path().join("base.safetensors")).expect("base");
    let lora = Lora::open(&place.path().join("lora.safetensors")).expect("LoRA");
    weights.merge(&lora, Part::Unet, 2.0).expect("merged");
    let got = weights.read("conv_in.weight", &[rows, columns]).expect("values");
    let (rows, rank, columns) = (rows as usize, rank as usize, columns as usize);
    for (i, j) in [(0, 0), (299, 17), (300, 899), (599, 450), (rows - 1, columns - 1)] {
        let product: f64 = (0..rank).map(|k| f64::from(up.1[i * rank + k]) * f64::from(down.1[k * columns + j])).sum();
        let want = f64::from(weight.1[i * columns + j]) + 2.0 * 10.0 / rank as f64 * product;
        assert!((f64::from(got[i * columns + j]) - want).abs() < 1e-5, "{i} {j}");
    }
}

#[test]
fn loras_that_do_not_fit_are_refused() {
    let place = tempfile::tempdir().expect("folder");
    let [unet, _] = base(place.path());
    let path = place.path().join("lora.safetensors");
    let try_one = |keys: &[(&str, &[u64])]| {
        let tensors = keys.iter().map(|(key, shape)| {
            ((*key).to_owned(), (shape.to_vec(), vec![0.5; shape.iter().product::<u64>() as usize]))
        });
        write(&path, &tensors.collect(), Dtype::F32);
        let lora = Lora::open(&path)?;
        let mut weights = Weights::open(&unet)?;
        let before = weights.fingerprint()?;
        let result = weights.merge(&lora, Part::Unet, 1.0);
        assert_eq!(weights.fingerprint()? == before, result.is_err());
        result
    };
    let q = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q";
    let [down, up, alpha] = ["lora_down.weight", "lora_up.weight", "alpha"].map(|end| format!("{q}.{end}"));
    assert!(try_one(&[(&down, &[2, 4]), (&up, &[4, 2]), (&alpha, &[])]).is_ok());
    // A matrix may be written as a convolution of side 1.
    assert!(try_one(&[(&down, &[2, 4, 1, 1]), (&up, &[4, 2, 1, 1])]).is_ok());
    for (keys, expected) in [
        (vec![(down.as_str(), &[2, 5][..]), (&up, &[4, 2])], "does not fit"),
        (vec![(&down, &[2, 4]), (&up, &[4, 3])], "does not fit"),
        (vec![(&down, &[2, 4]), (&up, &[5, 2])], "does not fit"),
        (vec![(&down, &[4]), (&up, &[4, 2])], "does not fit"),
        (vec![(&down, &[2, 4])], "one of its two matrices is missing"),
        (vec![(&down, &[2, 4]), (&up, &[4, 2]), (&alpha, &[3])], "one number is expected"),
        (
            vec![
                ("lora_unet_nowhere_to_q.lora_down.weight", &[2, 4]),
                ("lora_unet_nowhere_to_q.lora_up.weight", &[4, 2]),
            ],
            "has no layer of that name",
        ),
        (vec![("lora_unet_x.hada_w1_a", &[2, 4])], "LoHa"),
        (vec![("lora_unet_x.dora_scale", &[2, 4])], "DoRA"),
        (vec![("lora_unet_x.lora_mid.weight", &[2, 4])], "three parts"),
        (vec![("transformer.x.lora_A.weight", &[2, 4])], "of no network that is known here"),
        (vec![("model.weight", &[2, 4])], "not a key of a LoRA"),
        (vec![(&alpha, &[])], "no layer of a LoRA"),
    ] {
        let error = refusal(try_one(&keys));
        assert!(error.contains(expected) && error.contains("lora.safetensors"), "{error}");
    }
}

/// A text encoder's weights as a file of `dtype`.
fn encoder_file(path: &Path, name: &str, dtype: Dtype) {
    struct Recorder(Synthetic, Tensors);
    impl Source for Recorder {
        fn has(&self, name: &str) -> bool {
            self.0.has(name)
        }

        fn tensor(&mut self, name: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
            self.1.insert(name.to_owned(), (shape.to_vec(), self.0.values(name, shape)));
            self.0.tensor(name, shape, dtype)
        }
    }
    let config = ClipConfig::from_json(&config(name)).expect("config");
    let mut recorder = Recorder(Synthetic::new(name, 1.0), Tensors::new());
    clip::graph(&config, &mut recorder, DType::F32, Hidden::Last).expect("graph");
    write(path, &recorder.1, dtype);
}

#[test]
fn a_model_from_disk_gives_what_transformers_gives() {
    use weir::inference::{Config, Runtime, Session};
    let place = tempfile::tempdir().expect("folder");
    let golden = Golden::read("text");
    let copy = tempfile::tempdir().expect("folder");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(folder().join("tokenizer").join(name), copy.path().join(name)).expect("copy");
    }
    std::fs::write(copy.path().join("tokenizer_config.json"), "{\"pad_token\": \"!\"}").expect("write");
    let tokens = ClipTokenizer::open(copy.path()).expect("tokenizer").encode("a photo of a cat").expect("tokens");
    let settings = Config { threads: 2, ..Config::default() };
    let runtime = Runtime::load(&settings).unwrap_or_else(|error| panic!("{error}"));
    let config = ClipConfig::from_json(&config("clip-h")).expect("config");
    for (dtype, to, most) in
        [(Dtype::F32, DType::F32, 2e-5), (Dtype::F16, DType::F32, 5e-3), (Dtype::BF16, DType::F16, 5e-2)]
    {
        let encoder = place.path().join("mine/text_encoder/model.safetensors");
        encoder_file(&encoder, "clip-h", dtype);
        let repository = Repository::find(place.path(), "mine").expect("found");
        let weights = repository.weights(Component::TextEncoder, to).expect("weights");
        let data = place.path().join("weights.bin");
        let mut pool = Pool::create(&data).expect("pool");
        // Two graphs, one file, each weight once.
        let build = |pool: &mut Pool| {
            clip::graph(&config, &mut Reader::pooled(&weights, pool), to, Hidden::Last).expect("graph")
        };
        let (first, second) = (build(&mut pool), build(&mut pool));
        assert_eq!(first, second);
        pool.finish().expect("written");
        let bytes = data.metadata().expect("file").len();
        assert!(bytes < weights.parameters() * to.size() as u64 + 4096 * (weights.names().count() as u64), "{bytes}");
        let onnx = place.path().join("text.onnx");
        first.write(&onnx).expect("written");
        let mut session = Session::from_file(runtime, &settings, &onnx).unwrap_or_else(|error| panic!("{error}"));
        let ids = session.input::<i64>("input_ids", &[1, 77]).expect("input");
        let out = session.output::<f32>("states", &[1, 77, 32]).expect("output");
        let mut states = vec![0.0; 77 * 32];
        session.run(&[ids.feed(&tokens.ids)], &mut [out.fetch(&mut states)]).expect("run");
        let want = golden.get("clip-h/0/last");
        close(&format!("{dtype:?}"), &states, want, most * scale(want));
        apart("the other prompt", &states, golden.get("clip-h/1/last"), 0.5);
        std::fs::remove_dir_all(place.path().join("mine")).expect("remove");
    }
}

#[test]
fn a_pool_keeps_networks_apart() {
    let place = tempfile::tempdir().expect("folder");
    let [one, two] = ["one", "two"].map(|name| place.path().join(format!("{name}.safetensors")));
    write(&one, &some(), Dtype::F32);
    write(&two, &some(), Dtype::F32);
    let [one, two] = [one, two].map(|path| Weights::open(&path).expect("weights"));
    let mut pool = Pool::create(&place.path().join("pool.bin")).expect("pool");
    let mut ask = |weights: &Weights, dtype| {
        Reader::pooled(weights, &mut pool).tensor("a.weight", &[3, 4], dtype).expect("placed")
    };
    let first = ask(&one, DType::F32);
    assert_eq!(first, ask(&one, DType::F32));
    assert_ne!(first, ask(&one, DType::F16));
    assert_ne!(first, ask(&two, DType::F32));
    // A weight that is there already is still checked.
    assert!(Reader::pooled(&one, &mut pool).tensor("a.weight", &[4, 3], DType::F32).is_err());
    let mut g = GraphBuilder::new("g");
    let Stored::External(place) = first else { panic!("pooled weights are in a file") };
    assert!(g.external("w", DType::F32, [3, 4], &place).is_ok());
}

proptest! {
    #[test]
    fn damaged_files_are_refused_or_read(cut in 0_usize..600, flip in 0_usize..600, bit in 0_u8..8) {
        let place = tempfile::tempdir().expect("folder");
        let path = place.path().join("model.safetensors");
        write(&path, &some(), Dtype::F32);
        let mut bytes = std::fs::read(&path).expect("file");
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1 << bit;
        }
        bytes.truncate(bytes.len().min(bytes.len().saturating_sub(cut.saturating_sub(300))));
        std::fs::write(&path, &bytes).expect("write");
        weir::models::weights::fuzz::fuzz_safetensors(&bytes);
        if let Ok(weights) = Weights::open(&path) {
            for name in weights.names().map(str::to_owned).collect::<Vec<_>>() {
                let shape = weights.shape(&name).expect("shape");
                let _ = weights.read(&name, &shape);
            }
        }
    }

    #[test]
    fn keys_of_loras_are_parsed_or_refused(key in "(lora_unet_|unet\\.|text_encoder\\.|base_model\\.model\\.)?[a-z_0-9.]{0,40}(\\.lora_[AB]|\\.lora_down|_lora\\.up)?(\\.[a-z]{0,4})?(\\.weight|\\.alpha)?") {
        weir::models::weights::fuzz::fuzz_lora_key(key.as_bytes());
        weir::models::weights::fuzz::fuzz_weight_index(key.as_bytes());
    }
}
