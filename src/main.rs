//! The `weir` binary: one program, one subcommand a job.

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
