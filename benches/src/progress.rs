//! What goes on, for who waits for it: on standard error, so that the tables stand alone on standard output.

pub fn say(what: &str) {
    eprintln!("  {what}");
}
