//! The control plane's API on the command line.

fn main() -> std::process::ExitCode {
    outrider_control::ctl::main()
}
