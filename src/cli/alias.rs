//! Commands written for the Python containers that Weir takes the place of: `python main.py`, `uv run … python main.py`,
//! `uv run … uvicorn runner.main:app …`, `--prepare-models` and `PREPARE_MODELS=1`.

use std::ffi::OsString;

/// The variable that asks for preparation instead of serving, with exactly `1`.
pub const PREPARE_VARIABLE: &str = "PREPARE_MODELS";
/// The flag that asks for the same, anywhere in such a command.
const PREPARE_FLAG: &str = "--prepare-models";

/// The arguments, program first, as this program's own subcommands. `prepare` says that [`PREPARE_VARIABLE`] asks for it.
/// What is no such command is returned as it is.
pub fn translate(arguments: Vec<OsString>, prepare: bool) -> Vec<OsString> {
    let Some((program, rest)) = arguments.split_first() else { return arguments };
    let words: Vec<&str> = rest.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let flags = match words.as_slice() {
        ["serve", ..] if prepare => rest.get(1..).unwrap_or_default().to_vec(),
        [PREPARE_FLAG] => Vec::new(),
        _ => match foreign(&words) {
            Some(flags) => flags.into_iter().map(OsString::from).collect(),
            None => return arguments,
        },
    };
    let job = if prepare || words.contains(&PREPARE_FLAG) { "prepare" } else { "serve" };
    [program.clone(), job.into()].into_iter().chain(flags).collect()
}

/// The flags of `serve` that one of the known commands comes to.
fn foreign(words: &[&str]) -> Option<Vec<String>> {
    let words = match words {
        ["uv", "run", rest @ ..] => {
            let command = rest.iter().position(|word| !word.starts_with('-'))?;
            rest.get(command..)?
        }
        other => other,
    };
    let (name, rest) = words.split_first()?;
    match *name {
        "python" | "python3" => {
            let script = rest.iter().find(|word| !word.starts_with('-') || matches!(**word, "-c" | "-m"))?;
            (script.rsplit('/').next() == Some("main.py")).then(Vec::new)
        }
        "uvicorn" if rest.first() == Some(&"runner.main:app") => {
            // An empty host means all addresses there, which is what Weir listens on anyhow.
            let pairs =
                rest.windows(2).filter(|pair| matches!(pair, ["--host" | "--port", value] if !value.is_empty()));
            Some(pairs.flatten().map(|word| (*word).to_owned()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &[&str], prepare: bool) -> Vec<String> {
        let arguments = ["weir"].iter().chain(line).map(OsString::from).collect();
        translate(arguments, prepare).iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn commands_of_the_replaced_images_serve() {
        assert_eq!(told(&["python", "main.py"], false), ["serve"]);
        assert_eq!(told(&["python3", "-u", "/app/live/streamdiffusion/main.py"], false), ["serve"]);
        assert_eq!(told(&["uv", "run", "--frozen", "python", "main.py"], false), ["serve"]);
        assert_eq!(told(&["uv", "run", "--active", "--frozen", "python", "main.py"], false), ["serve"]);
        let noop = ["uv", "run", "--frozen", "uvicorn", "runner.main:app", "--log-config", "x.json", "--host", ""];
        assert_eq!(told(&noop, false), ["serve"]);
        let port = ["uvicorn", "runner.main:app", "--host", "::", "--port", "8100"];
        assert_eq!(told(&port, false), ["serve", "--host", "::", "--port", "8100"]);
    }

    #[test]
    fn preparation_is_asked_for_by_flag_or_variable() {
        assert_eq!(told(&["--prepare-models"], false), ["prepare"]);
        assert_eq!(told(&["python", "main.py", "--prepare-models"], false), ["prepare"]);
        assert_eq!(told(&["uv", "run", "python", "main.py"], true), ["prepare"]);
        assert_eq!(told(&["serve", "--model-id", "invert"], true), ["prepare", "--model-id", "invert"]);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let lines: [&[&str]; 7] = [
            &[],
            &["serve", "--port", "9"],
            &["doctor"],
            &["python", "-c", "import torch"],
            &["python", "-m", "runner.live.infer"],
            &["uv", "run"],
            &["uvicorn", "other:app"],
        ];
        for line in lines {
            assert_eq!(told(line, false), line);
        }
        assert_eq!(told(&["doctor"], true), ["doctor"]);
    }
}
