use proptest::prelude::*;

use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn with(flags: &[(&str, &str)], variables: &[(&str, &str)], file: Option<&str>) -> Result<Loaded, Mistakes> {
    let mut flags = map(flags);
    if file.is_some() {
        flags.insert("config".into(), "weir.toml".into());
    }
    load(&flags, &map(variables), |_| file.map(str::to_owned).ok_or(std::io::ErrorKind::NotFound.into()))
}

fn shown(loaded: &Loaded) -> Vec<(&'static str, String)> {
    SETTINGS.iter().map(|setting| (setting.key, (setting.get)(&loaded.config))).collect()
}

#[test]
fn nothing_said_means_the_defaults() {
    let loaded = with(&[], &[], None).expect("defaults");
    assert_eq!(shown(&loaded), shown(&Loaded::default()));
    assert!(loaded.origins.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn later_wins() {
    let file = "[serve]\nport = 1\nmodel_id = \"a\"\nmax_body = \"1MiB\"\n";
    let loaded = with(&[("port", "4")], &[("PORT", "2"), ("WEIR_SERVE_PORT", "3"), ("MODEL_ID", "b")], Some(file));
    let loaded = loaded.expect("a configuration");
    let supervisor = &loaded.config.supervisor;
    assert_eq!((supervisor.port, supervisor.model_id.as_str(), supervisor.max_body), (4, "b", 1024 * 1024));
    assert_eq!(loaded.origins["serve.port"], Origin::Flag("port".into()));
    assert_eq!(loaded.origins["serve.model_id"], Origin::Variable("MODEL_ID".into()));
    assert_eq!(loaded.origins["serve.max_body"], Origin::File("weir.toml".into()));
}

#[test]
fn the_own_variable_wins_over_that_of_the_network() {
    let loaded = with(&[], &[("PORT", "2"), ("WEIR_SERVE_PORT", "3")], None).expect("a configuration");
    assert_eq!(loaded.config.supervisor.port, 3);
}

#[test]
fn what_an_orchestrator_passes() {
    let variables = [
        ("PIPELINE", "live-video-to-video"),
        ("MODEL_ID", "streamdiffusion-sdxl"),
        ("VERBOSE_LOGGING", "1"),
        ("MODEL_DIR", "/weights"),
        ("AUTH_TOKEN", "t"),
        ("HOST", "127.0.0.1"),
        ("PORT", "8900"),
        ("VERSION", "0.14.1"),
        ("SFAST", "true"),
        ("HF_HUB_OFFLINE", ""),
    ];
    let config = with(&[], &variables, None).expect("a configuration").config;
    let supervisor = &config.supervisor;
    assert_eq!(supervisor.model_id, "streamdiffusion-sdxl");
    assert_eq!((supervisor.host.to_string().as_str(), supervisor.port), ("127.0.0.1", 8900));
    assert_eq!((supervisor.auth_token.as_str(), supervisor.version.as_str()), ("t", "0.14.1"));
    assert_eq!(config.engine.models, PathBuf::from("/weights"));
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn words_of_the_network_that_say_nothing() {
    let variables = [("VERSION", "undefined"), ("VERBOSE_LOGGING", "true"), ("MODEL_ID", ""), ("SUBVARIANT", "")];
    let loaded = with(&[], &variables, None).expect("a configuration");
    assert_eq!(shown(&loaded), shown(&Loaded::default()));
}

#[test]
fn a_subvariant_names_the_pipeline_unless_there_is_a_name() {
    let model = |variables: &[(&str, &str)]| with(&[], variables, None).expect("ok").config.supervisor.model_id;
    assert_eq!(model(&[("SUBVARIANT", "sd15-v2v")]), "streamdiffusion-sd15-v2v");
    assert_eq!(model(&[("SUBVARIANT", "sd15"), ("MODEL_ID", "noop")]), "noop");
}

#[test]
fn every_mistake_is_told_with_its_name() {
    let file = "[serve]\nprot = 1\ncapacity = 0\n[restart]\nhang = 10\n[media]\naudio = [1]\n[nonsense]\nx = 1\n";
    let variables = [("PORT", "99999"), ("PIPELINE", "text-to-image"), ("WEIR_TRICKLE_TLS", "maybe")];
    let mistakes = with(&[("log-level", "loud")], &variables, Some(file)).expect_err("mistakes");
    let text = mistakes.to_string();
    for expected in [
        "file weir.toml: serve.prot: no setting has this name",
        "file weir.toml: serve.capacity: 0 is not between 1 and 16",
        "file weir.toml: restart.hang: `10` is no time: write a number and a unit, such as 500ms, 10s or 3m",
        "file weir.toml: media.audio: a list has no place here",
        "file weir.toml: nonsense.x: no setting has this name",
        "variable PORT: `99999` does not fit: ",
        "variable PIPELINE: `text-to-image` is not `live-video-to-video` or `byoc`",
        "variable WEIR_TRICKLE_TLS: `skip`, `verify`, or `pin:` with 64 hex digits is expected",
        "flag --log-level: unknown variant `loud`",
    ] {
        assert!(text.contains(expected), "{expected}\nis missing in\n{text}");
    }
    assert_eq!(mistakes.0.len(), 9);
}

#[test]
fn a_file_that_is_none() {
    let text = with(&[], &[], Some("[serve]\nport = = 1\n")).expect_err("a mistake").to_string();
    assert!(text.starts_with("file weir.toml: line 2: "), "{text}");
    let text = with(&[("config", "nowhere.toml")], &[], None).expect_err("a mistake").to_string();
    assert!(text.starts_with("flag --config: nowhere.toml cannot be read: "), "{text}");
    let text = with(&[], &[("WEIR_CONFIG", "nowhere.toml")], None).expect_err("a mistake").to_string();
    assert!(text.starts_with("variable WEIR_CONFIG: nowhere.toml cannot be read: "), "{text}");
}

#[test]
fn an_unknown_variable_of_ours_is_a_warning() {
    let loaded = with(&[], &[("WEIR_SERVE_PROT", "1"), ("PATH", "/bin")], None).expect("a configuration");
    assert_eq!(loaded.warnings, ["variable WEIR_SERVE_PROT: no setting has this name"]);
}

#[test]
fn parameters_can_be_json_or_a_table() {
    let table = "[engine.initial_params]\nprompt = \"x\"\n[engine.initial_params.inner]\nt = [1, 2]\n";
    let json = "[engine]\ninitial_params = '{\"prompt\": \"x\", \"inner\": {\"t\": [1, 2]}}'\n";
    let params = |file| with(&[], &[], Some(file)).expect("a configuration").config.engine.initial_params;
    assert_eq!(params(table), params(json));
    assert_eq!(params(table)["inner"]["t"][1], 2);
}

#[test]
fn secrets_are_starred() {
    let loaded = with(&[], &[("AUTH_TOKEN", "very-secret")], None).expect("a configuration");
    let text = loaded.text();
    assert!(text.contains("auth_token = \"***\"") && !text.contains("very-secret"), "{text}");
    assert!(text.contains("# variable AUTH_TOKEN\nauth_token"), "{text}");
}

#[test]
fn a_mistake_beside_a_secret_does_not_show_it() {
    let text = with(&[], &[], Some("[serve]\nauth_token = very-secret\n")).expect_err("a mistake").to_string();
    assert!(!text.contains("very-secret"), "{text}");
}

#[test]
fn a_runner_serves_one_stream() {
    let config = with(&[("capacity", "3")], &[], None).expect("a configuration").config;
    assert_eq!((config.supervisor.capacity, config.engine.capacity), (3, 3));
    assert!(with(&[("capacity", "17")], &[], None).is_err());
}

/// `config/weir.toml` is what `weir config --example` prints.
#[test]
fn the_example_file_is_the_table() {
    let text = include_str!("../../config/weir.toml");
    assert_eq!(text, example());
    let loaded = with(&[], &[], Some(text)).expect("the example");
    assert_eq!(shown(&loaded), shown(&Loaded::default()));
    assert_eq!(loaded.origins.len(), SETTINGS.len());
}

#[test]
fn no_two_settings_share_a_name() {
    let mut names: Vec<String> = Vec::new();
    for setting in SETTINGS {
        names.extend([setting.key.to_owned(), format!("--{}", setting.flag()), setting.variable()]);
        names.extend(setting.contract.map(|(name, _)| name.to_owned()));
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn times_and_sizes() {
    for (text, ms) in [("500ms", 500), ("2.5s", 2500), ("3m", 180_000), (" 1 h ", 3_600_000), ("0s", 0)] {
        assert_eq!(values::time::parse(text), Ok(ms), "{text}");
    }
    for text in ["", "10", "s", "-1s", "1d", "1.2.3s", "1e3s", "NaNs"] {
        assert!(values::time::parse(text).is_err(), "{text}");
    }
    for (text, bytes) in [("0", 0), ("65536", 65_536), ("64KiB", 65_536), ("2MiB", 2_097_152), ("1 GiB", 1 << 30)] {
        assert_eq!(values::size::parse(text), Ok(bytes), "{text}");
    }
    for text in ["", "MiB", "1.5MiB", "-1", "1TB", "99999999999999GiB"] {
        assert!(values::size::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn times_and_sizes_read_what_they_write(ms in 0u64..10_000_000, bytes in 0usize..usize::MAX / 2) {
        prop_assert_eq!(values::time::parse(&values::time::show(&ms)), Ok(ms));
        prop_assert_eq!(values::size::parse(&values::size::show(&bytes)), Ok(bytes));
    }

    #[test]
    fn any_name_is_written_so_that_it_reads_back(name in "[!-~]{1,8}|0[0-9]{1,3}|[0-9]e[0-9]|[0-9]+\\.[0-9]*") {
        let name = toml::Value::String(name).to_string();
        fuzz::fuzz_config_file(format!("[serve]\nmodel_id = {name}\nauth_token = {name}\n").as_bytes());
    }

    #[test]
    fn any_file_is_read_or_refused(text in "(\\[(serve|media|engine|x)\\]\n)?([a-z_]{1,12} = (1|\"a\"|\\{a=1\\}|true)\n){0,4}.{0,20}") {
        fuzz::fuzz_config_file(text.as_bytes());
    }
}
