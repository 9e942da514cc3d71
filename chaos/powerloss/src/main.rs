//! `powerloss`: the file system as a process of its own, for shell scripts and for tests that kill everything else.

use ashlar_powerloss::{COMMANDS, ControlServer, DirectoryOrder, NewFileEntry, Options, PowerLossFs, ask};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
powerloss mount MOUNTPOINT --control SOCKET [--from DIR] [--capacity BYTES]
                [--order independent|journaled] [--new-file-entry with-file|with-directory]
    Mounts a file system held in memory, says `ready`, and stays until `quit` or SIGTERM.
    --from DIR      starts with a copy of DIR
powerloss ask SOCKET COMMAND...
    Sends a command to a running one, prints the answer, and fails if it is an error.
Commands:
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["mount", mount_point, ref options @ ..] => mount(Path::new(mount_point), options),
        ["ask", socket, ref command @ ..] if !command.is_empty() => send(Path::new(socket), &command.join(" ")),
        _ => Err(format!("{USAGE}{COMMANDS}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powerloss: {error}");
            ExitCode::FAILURE
        }
    }
}

fn mount(mount_point: &Path, words: &[&str]) -> Result<(), String> {
    let arguments = Arguments::parse(words)?;
    let fs = match &arguments.from {
        Some(directory) => PowerLossFs::from_directory(directory, arguments.options).map_err(|e| e.to_string())?,
        None => PowerLossFs::new(arguments.options),
    };
    let mounted = fs.mount(mount_point).map_err(|error| error.to_string())?;
    let server = ControlServer::bind(mounted, &arguments.control).map_err(|error| error.to_string())?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| error.to_string())?;
    let quit = server.quitter();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Nobody listens any more only if the process is ending already.
            quit.send(()).unwrap_or_default();
        }
    });
    println!("ready");
    server.run().map_err(|error| error.to_string())
}

struct Arguments {
    control: PathBuf,
    from: Option<PathBuf>,
    options: Options,
}

impl Arguments {
    fn parse(words: &[&str]) -> Result<Arguments, String> {
        let mut control = None;
        let mut from = None;
        let mut options = Options::default();
        for pair in words.chunks(2) {
            match *pair {
                ["--control", path] => control = Some(PathBuf::from(path)),
                ["--from", path] => from = Some(PathBuf::from(path)),
                ["--capacity", bytes] => {
                    options.capacity_bytes = bytes.parse().map_err(|error| format!("--capacity {bytes:?}: {error}"))?;
                }
                ["--order", "independent"] => options.directory_order = DirectoryOrder::Independent,
                ["--order", "journaled"] => options.directory_order = DirectoryOrder::Journaled,
                ["--new-file-entry", "with-file"] => options.new_file_entry = NewFileEntry::WithFile,
                ["--new-file-entry", "with-directory"] => options.new_file_entry = NewFileEntry::WithDirectory,
                _ => return Err(format!("{}: not understood\n{USAGE}{COMMANDS}", pair.join(" "))),
            }
        }
        let control = control.ok_or_else(|| format!("--control is missing\n{USAGE}{COMMANDS}"))?;
        Ok(Arguments { control, from, options })
    }
}

fn send(socket: &Path, command: &str) -> Result<(), String> {
    let answer = ask(socket, command).map_err(|error| error.to_string())?;
    match answer.strip_prefix("error ") {
        Some(error) => Err(error.to_owned()),
        None => {
            println!("{answer}");
            Ok(())
        }
    }
}
