//! What a command prints: the same facts for people and as JSON. Never panics: a reader that went away (`| head`) ends the
//! command quietly.

use std::fmt::Write as _;
use std::io::{self, Write};

/// The answer of a command.
#[derive(Debug)]
pub struct Output {
    pub human: String,
    pub json: serde_json::Value,
    /// The command did what it should and found what should not be: said on stderr, with an exit status.
    pub failure: Option<String>,
}

impl Output {
    pub fn new(human: impl Into<String>, json: serde_json::Value) -> Output {
        Output { human: human.into(), json, failure: None }
    }

    /// Nothing: standard output is used for something else.
    pub fn silent() -> Output {
        Output { human: String::new(), json: serde_json::Value::Null, failure: None }
    }

    pub fn failed(self, failure: Option<String>) -> Output {
        Output { failure, ..self }
    }

    /// Whether it could be written, or nobody wanted it any more.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        match (as_json, &self.json) {
            (true, serde_json::Value::Null) => Ok(()),
            (true, json) => print_line(&json.to_string()),
            (false, _) => print_line(&self.human),
        }
    }
}

/// Prints a line now: progress of a command that goes on.
pub fn print_line(text: &str) -> io::Result<()> {
    print_to_reader(text).map(|_| ())
}

/// The same; false once nobody reads any more.
pub fn print_to_reader(text: &str) -> io::Result<bool> {
    if text.is_empty() {
        return Ok(true);
    }
    print_raw(&format!("{}\n", text.trim_end_matches('\n')))
}

/// The same of a part of what is printed, as it is.
pub fn print_raw(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// A message about what a command does, on stderr, where it disturbs no JSON. Nothing depends on it being read.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|s| (*s).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["a-long-name".to_owned(), "1GiB".to_owned()]);
        table.row(["b".to_owned(), "2GiB".to_owned()]);
        assert_eq!(table.render(), "NAME         SIZE\na-long-name  1GiB\nb            2GiB\n");
    }
}
